"""How pages look: system fonts, light and dark, narrow and wide, on paper."""

# Colours of systems and labels, apart also for those who see red and green alike.
COLORS = 8

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1d2126; --soft: #5c6570; --line: #d9dde2; --raised: #f5f6f8;
  --c0: #1f6fb4; --c1: #d9661f; --c2: #14866a; --c3: #b14a94;
  --c4: #8a6d1a; --c5: #4aa3d8; --c6: #6b55b5; --c7: #bf3b43;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --ink: #e4e7eb; --soft: #9aa4af; --line: #343a42;
    --raised: #1d2127;
    --c0: #62aae8; --c1: #f0924f; --c2: #45b896; --c3: #dc84c2;
    --c4: #cdae55; --c5: #93d0f4; --c6: #a897ea; --c7: #ee7d82;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .25rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
h1, h2, h3, dd, p, li { overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
a { color: var(--c0); text-decoration-thickness: 1px; text-underline-offset: 2px; }
.soft, figcaption, .notes { color: var(--soft); }
section { margin-top: 2.5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem;
  margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.notes { padding-left: 1.1rem; margin: .5rem 0; font-size: .93rem; max-width: 46rem; }

.kinds { display: flex; flex-wrap: wrap; gap: 0 3.5rem; }
.kinds > div { max-width: 100%; min-width: 0; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
th, td { padding: .3rem .75rem; text-align: right; font-weight: 400; }
th[scope=col] { color: var(--soft); font-size: .87rem; vertical-align: bottom;
  white-space: normal;
  border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; position: sticky; left: 0; z-index: 1;
  padding-left: 0; background: var(--page); max-width: 18rem; white-space: normal;
  overflow-wrap: break-word; }
td.text, th.text { text-align: left; }
tbody tr + tr > * {
  border-top: 1px solid color-mix(in srgb, var(--line) 55%, transparent); }
tbody tr.mean > * { border-top: 1px solid var(--line); }
strong { font-weight: 650; }

.bar { display: block; width: 7rem; height: 5px; margin-top: 2px; border-radius: 2px;
  background: var(--raised); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--color); }
.heat td { text-align: center; padding: .3rem .45rem; min-width: 3.2rem;
  border: 1px solid var(--page); }
.heat th[scope=col] { text-align: center; }
.range { position: relative; display: block; width: 8rem; height: 1rem;
  background: linear-gradient(var(--line), var(--line)) 50% / 1px 100% no-repeat; }
.range i { position: absolute; top: .45rem; height: 2px; background: var(--soft); }
.range b { position: absolute; top: .25rem; width: .5rem; height: .5rem;
  margin-left: -.25rem; border-radius: 50%; background: var(--soft); }
.range.up i, .range.up b { background: var(--c0); }
.range.down i, .range.down b { background: var(--c1); }

.plots { display: grid; gap: 1rem 2rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; max-width: 34rem; }
figure.wide { max-width: 44rem; }
figcaption { font-size: .93rem; margin-bottom: .25rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem;
  padding: 0; margin: .25rem 0; font-size: .93rem; }
.legend span { color: var(--color); }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--c0); }

@media (max-width: 30rem) {
  main { padding: 1.25rem .9rem 3rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; }
  th, td { padding: .3rem .5rem; }
  th:first-child { max-width: 9rem; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444;
    --line: #bbb; --raised: #eee;
    --c0: #1f6fb4; --c1: #d9661f; --c2: #14866a; --c3: #b14a94;
    --c4: #8a6d1a; --c5: #4aa3d8; --c6: #6b55b5; --c7: #bf3b43; }
  body { font-size: 10pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  summary { list-style: none; color: inherit; }
  .scroll { overflow: visible; }
  th:first-child { position: static; }
  figure, tr, li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block;
    height: auto; }
}
"""
