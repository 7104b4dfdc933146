"""The report page's style sheet: one column of text, figures a little wider, light and dark as the reader's system."""

STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf8;--card:#fff;--ink:#1d1f23;--soft:#666b75;--line:#e3e0da;
--accent:#2b6cb0;--accent-soft:#2b6cb029;--warn:#c4472b;--band:#2b6cb012}
@media (prefers-color-scheme:dark){:root{--paper:#15171b;--card:#1c1f25;--ink:#e8e6e1;--soft:#9aa0aa;--line:#2e323a;
--accent:#7ab3ee;--accent-soft:#7ab3ee33;--warn:#f0866b;--band:#7ab3ee14}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.6 "Charter","Bitstream Charter","Iowan Old Style","Source Serif 4",Georgia,serif}
main{max-width:62rem;margin:0 auto;padding:4rem 1.5rem 6rem}
h1,h2,h3,th,dt,.eyebrow,.tiles,.card,table,figcaption,.triple span,.keys,summary,svg text,.provenance dd{
font-family:system-ui,-apple-system,"Segoe UI","Noto Sans","Liberation Sans",sans-serif}
h1{font-size:2.4rem;line-height:1.15;letter-spacing:-.02em;margin:.2rem 0 1rem;font-weight:650;overflow-wrap:anywhere}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:0 0 .5rem;font-weight:650}
section{margin-top:4rem}
p{max-width:42rem;margin:.5rem 0 1.2rem}
.lead{font-size:1.15rem;line-height:1.55}
.eyebrow{margin:0;color:var(--accent);font-size:.8rem;font-weight:650;letter-spacing:.08em;text-transform:uppercase}
.soft{color:var(--soft)}
code{font:.92em ui-monospace,"SF Mono",Menlo,"DejaVu Sans Mono",monospace}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:1px;margin:2rem 0 0;
background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.tiles div{box-shadow:0 0 0 1px var(--line);padding:1rem 1.1rem}
.tiles dt{color:var(--soft);font-size:.8rem;line-height:1.3}
.tiles dd{margin:.25rem 0 0}
.tiles strong{display:block;font-size:1.6rem;line-height:1.2;font-weight:600;letter-spacing:-.02em;
font-variant-numeric:tabular-nums}
.tiles span{display:block;color:var(--soft);font-size:.78rem;line-height:1.35;margin-top:.2rem;overflow-wrap:anywhere}
.pictures{display:grid;gap:2rem}
figure{margin:0}
.triple{display:grid;grid-template-columns:repeat(3,1fr);gap:.6rem}
.triple div{position:relative}
.triple img{display:block;max-width:100%;max-height:19rem;border-radius:6px;background:var(--line)}
.triple span{position:absolute;left:.5rem;bottom:.5rem;padding:.1rem .5rem;border-radius:99px;font-size:.72rem;
font-weight:600;color:#fff;background:#000a}
figcaption{margin-top:.5rem;color:var(--soft);font-size:.85rem}
figcaption b{color:var(--ink);font-weight:600;margin-right:.5rem}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;width:100%}
th{text-align:left;font-weight:450;overflow-wrap:anywhere}
thead th{color:var(--soft);font-size:.78rem;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}
tbody th,td{padding:.34rem .8rem .34rem 0;border-bottom:1px solid var(--line)}
td,thead th:not(:first-child){text-align:right;white-space:nowrap}
tr>:last-child{padding-right:0}
.groups tbody+tbody tr:first-child>*{border-top:2px solid var(--line)}
.groups td:last-child{font-weight:600}
.bars{max-width:42rem}
.bars th{white-space:nowrap}
.bar{width:100%}
.bars td:last-child{width:4rem}
.bar span{display:block;height:.55rem;border-radius:3px;background:var(--accent)}
.scroll{overflow-x:auto}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(26rem,100%),1fr));gap:1rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.1rem .9rem;min-width:0;
display:grid;grid-template-columns:1fr auto;column-gap:1rem;align-items:baseline}
.card h3{margin:0;font-size:.85rem;font-weight:600;line-height:1.35;overflow-wrap:anywhere}
.card p{margin:.5rem 0 0;color:var(--soft);font-size:.78rem;line-height:1.45;grid-column:1/-1;max-width:none}
.card .value{grid-column:2;margin:0;font-size:.85rem;color:var(--ink);text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}
.card .value b{font-size:1.15rem;font-weight:650}
.card .value .soft{display:block;font-size:.74rem}
svg{display:block;width:100%;height:auto;overflow:visible}
.histogram{grid-column:1/-1;margin-top:.7rem}
svg text{font-size:11px;fill:var(--soft);font-variant-numeric:tabular-nums}
.bound-name{fill:var(--accent)}
.range{fill:var(--band)}
.inside{fill:var(--accent)}
.outside{fill:var(--warn)}
.axis,.zero{stroke:var(--soft);stroke-width:1;fill:none}
.bound{stroke:var(--accent);stroke-width:1.2;stroke-dasharray:3 3}
.profile{margin-top:1rem}
.grid{stroke:var(--line);stroke-width:1}
.stage{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 4}
.profile circle{fill:var(--accent)}
.estimate{stroke:var(--soft);stroke-width:2}
.keys{display:block;font-size:.82rem;color:var(--soft);margin-top:.3rem}
.keys span{display:inline-block;width:.75rem;height:.75rem;border-radius:3px;margin:0 .3rem 0 .6rem;
vertical-align:-.08em}
.keys span:first-child{margin-left:0}
.key-measured{background:var(--accent);border-radius:50%!important;width:.55rem!important;height:.55rem!important}
.key-estimate{background:var(--soft);height:2px!important;vertical-align:.25em!important}
.key-inside{background:var(--accent)}
.key-outside{background:var(--warn)}
details{margin-top:1.2rem}
summary{cursor:pointer;color:var(--accent);font-size:.9rem;font-weight:550;padding:.4rem 0}
details>div{margin-top:.8rem}
.provenance dl{display:grid;grid-template-columns:9rem 1fr;gap:.4rem 1rem;font-size:.88rem;margin:0}
.provenance dt{color:var(--soft)}
.provenance dd{margin:0;overflow-wrap:anywhere}
@media (max-width:40rem){main{padding-top:2rem}h1{font-size:1.8rem}.provenance dl{grid-template-columns:1fr}
.provenance dd{margin-bottom:.5rem}.triple{gap:.3rem}}
@media print{main{max-width:none;padding:0}.card,figure,tr{break-inside:avoid}}
"""
