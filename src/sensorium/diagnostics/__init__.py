"""Why a trained system answers as it does."""
