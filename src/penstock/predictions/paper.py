"""The stylesheet of reports and model cards, and the policy of pages that stand alone.

Both are written into the page, so that it looks the same when it is saved; the policy names the
stylesheet by its hash, so nothing else that got into the page can bring style of its own.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#66707d;--paper:#fff;--up:#b3361e;--down:#1c6e8c;
--bar:#cdd5dd}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaef;--soft:#9aa5b1;--paper:#14181d;--up:#ff8f73;
--down:#6cc3e0;--bar:#39434e}}
body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;margin:0}
main{max-width:46rem;margin:0 auto;padding:2rem 1rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--bar)}
code{font-size:.8rem;overflow-wrap:anywhere}
figure{margin:1.5rem 0}figcaption{font-weight:600}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:11px}
.axis{stroke:var(--soft);stroke-width:1}.line{stroke:var(--down);fill:none;stroke-width:2}
.dot{fill:var(--down)}.up{fill:var(--up)}.down{fill:var(--down)}.rows{fill:var(--bar)}
.demo{border:2px solid var(--up);padding:.5rem 1rem}
.low{fill:var(--bar)}.medium{fill:var(--soft)}.high{fill:var(--up)}
.limit{stroke:var(--soft);stroke-dasharray:3 3}
td.n,th.n{text-align:right}
svg.square{max-width:24rem}
"""
# Of the stylesheets that reports have which were made by earlier versions.
_EARLIER: Final[tuple[str, ...]] = ()


def _hash(style: str) -> str:
    digest = hashlib.sha256(style.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


POLICY: Final = f"default-src 'none'; style-src {' '.join((_hash(STYLE), *_EARLIER))}"
