#!/usr/bin/env python3
"""Opens a report of midge-bench in a headless browser and checks what it draws against its data.

Usage: check.py BROWSER FOLDER SCREENSHOTS

FOLDER is what `midge-bench --output` wrote, of one round. Every curve must have as many points in the
browser as result.json has, none may leave its frame, the two servers must be told apart in light and in
dark, the pointer must show figures, and nothing may be loaded. Both screenshots are kept.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

WAIT_SECONDS_MAX = 90
# WCAG's minimum contrast between graphics and their background.
CONTRAST_MIN = 3.0
MODES = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}

# Runs inside the page and leaves what it saw in an element of its own.
PROBE = """
<pre id="probe"></pre><script>
const seen = { requests: performance.getEntriesByType("resource").map((entry) => entry.name), lines: [] };
seen.paper = getComputedStyle(document.body).backgroundColor;
for (const svg of document.querySelectorAll(".chart > svg")) {
  const frame = svg.viewBox.baseVal;
  const chart = svg.closest(".chart");
  const box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", {
    clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true }));
  const shown = document.getElementById("tip").textContent.split("\\n");
  svg.querySelectorAll("polyline").forEach((line, index) => {
    const points = [...line.points];
    seen.lines.push({
      section: chart.closest("section").querySelector("h2").textContent,
      chart: svg.getAttribute("aria-label"),
      name: line.dataset.name,
      points: points.length,
      labels: line.dataset.labels.split("|").length,
      outside: points.filter((p) => !(p.x >= 0 && p.x <= frame.width && p.y >= 0 && p.y <= frame.height)).length,
      stroke: getComputedStyle(line).stroke,
      panel: getComputedStyle(chart).backgroundColor,
      tip: shown[index] || "",
    });
  });
}
document.getElementById("probe").textContent = JSON.stringify(seen);
</script></body>"""


def run_browser(browser, flags, page):
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   f"--user-data-dir={profile}", "--window-size=1100,12000", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS_MAX,
                              check=False)
    if done.returncode != 0:
        sys.exit(f"the browser ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def look(browser, mode_flags, html, folder):
    page = folder / "probed.html"
    page.write_text(html.replace("</body>", PROBE), encoding="utf-8")
    dom = run_browser(browser, [*mode_flags, "--dump-dom"], page)
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    if not found or not found.group(1):
        sys.exit("the page's script did not run")
    text = found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)


def expected_lines(document):
    """Returns how often each section must have a line with a given name and number of points."""
    lines = collections.Counter()
    floor = next((run for run in document["runs"] if run["side"] == "host"), None)
    for name, curve in (floor or {"curves": {}})["curves"].items():
        lines["Noise floor", name.replace("_", " "), len(curve["points"])] += 1
    hiccups = floor and len(floor["curves"]["hiccup_load_core"]["points"])
    for run in document["runs"]:
        if run["side"] == "host" or not run["valid"]:
            continue
        section, side = run["workload"], run["side"] or "server"
        for curve in run.get("curves", {}).values():
            lines[section, side, len(curve["points"])] += 1
        for series in run.get("series", {}).values():
            if series:
                lines[section, side, len(series)] += 1
        points = [point for point in run.get("load_points", []) if point["valid"]]
        for percentile in ("p50", "p99"):
            count = sum(percentile in point["latency_ns"] for point in points)
            if count:
                lines[section, f"{side} {percentile}", count] += 1
    if hiccups:
        # Drawn into every chart of latencies but the generator's own.
        charts = {(run["workload"], curve) for run in document["runs"]
                  if run["side"] != "host" and run["valid"] for curve in run.get("curves", {})}
        for section, curve in charts:
            if curve != "late":
                lines[section, "hiccups of the load's core", hiccups] += 1
    return lines


def luminance(colour):
    channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def check_lines(mode, seen, sides):
    for line in seen["lines"]:
        where = f"{mode}, {line['section']}, {line['chart']}, {line['name']}"
        if line["points"] != line["labels"]:
            sys.exit(f"{where}: {line['points']} points but {line['labels']} labels")
        if line["outside"]:
            sys.exit(f"{where}: {line['outside']} points are outside the frame")
        if not line["tip"].startswith(line["name"]) or not re.search(r"\d", line["tip"]):
            sys.exit(f"{where}: the pointer shows '{line['tip']}'")
        if line["name"] in sides and contrast(line["stroke"], line["panel"]) < CONTRAST_MIN:
            sys.exit(f"{where}: {line['stroke']} on {line['panel']} cannot be seen")
    strokes = {line["name"]: line["stroke"] for line in seen["lines"] if line["name"] in sides}
    if len(set(strokes.values())) != len(sides):
        sys.exit(f"{mode}: the servers cannot be told apart: {strokes}")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    browser = sys.argv[1]
    folder, screenshots = (pathlib.Path(argument).resolve() for argument in sys.argv[2:])
    screenshots.mkdir(parents=True, exist_ok=True)
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    report = folder / "report.html"
    html = report.read_text(encoding="utf-8")
    expected = expected_lines(document)
    sides = [side["name"] or "server" for side in document["sides"]]
    papers = {}
    for mode, flags in MODES.items():
        seen = look(browser, flags, html, folder)
        if seen["requests"]:
            sys.exit(f"the report loads {seen['requests']}")
        drawn = collections.Counter(
            (line["section"], line["name"], line["points"]) for line in seen["lines"])
        if drawn != expected:
            sys.exit(f"{mode}: drawn but not in the data: {dict(drawn - expected)}; "
                     f"in the data but not drawn: {dict(expected - drawn)}")
        check_lines(mode, seen, sides)
        papers[mode] = seen["paper"]
        picture = screenshots / f"report-{mode}.png"
        run_browser(browser, [*flags, f"--screenshot={picture}"], report)
        if not picture.read_bytes().startswith(b"\x89PNG"):
            sys.exit(f"{picture} is no picture")
    if luminance(papers["dark"]) > 0.2 or luminance(papers["light"]) < 0.8:
        sys.exit(f"light and dark are not light and dark: {papers}")
    print(f"{sum(expected.values())} curves with all their points, in light and in dark: {screenshots}")


main()
