"""Write the generated files: the catalogue and the pages in `docs/` that are drawn from it.

python scripts/write_docs.py          # `make docs`
python scripts/write_docs.py --check  # fails if one is not current
"""

import sys
from pathlib import Path

from sensorium.claims.page import claims_page
from sensorium.claims.registry import claims
from sensorium.systems.registry import CATALOGUE, build_catalogue, catalogue
from sensorium.types.card import Card

DOCS = Path(__file__).parent.parent / "docs"


def systems_page() -> str:
    """A table of all systems."""
    lines = [
        "# Systems",
        "",
        "Generated from the cards by `make docs`.",
        "",
        "| name | paper | reads | is asked for | code |",
        "|---|---|---|---|---|",
    ]
    for name, (module, card) in catalogue().items():
        file = f"src/{module.replace('.', '/')}.py"
        cells = [
            f"`{name}`",
            _paper(card),
            ", ".join(card.modalities),
            ", ".join(card.tasks),
            f"[{file.rpartition('/')[2]}](../{file})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _paper(card: Card) -> str:
    if not card.paper.startswith("arXiv:"):
        return card.title
    number = card.paper.removeprefix("arXiv:")
    return f"{card.title} ([{number}](https://arxiv.org/abs/{number}), {card.year})"


def main() -> int:
    """Write, or check."""
    wanted = {CATALOGUE: build_catalogue()}
    if "--check" not in sys.argv:
        CATALOGUE.write_text(wanted[CATALOGUE])
        catalogue.cache_clear()
    wanted[DOCS / "systems.md"] = systems_page()
    wanted |= {DOCS / path: text for path, text in claims_page().items()}
    claimed = {claim.system for claim in claims().values()}
    for name, (_, card) in catalogue().items():
        if card.family != "baselines" and name not in claimed:
            print(f"system '{name}' has no claim: write src/sensorium/claims/catalogue/...")
            return 1
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path} is not current: run `make docs`")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
