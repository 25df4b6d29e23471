//! Charts as plain SVG: lines over linear, logarithmic or percentile axes. Colours come from the
//! page's style sheet by class, so that one drawing serves for light and dark.

use crate::units::{nanoseconds_text, number_text};
use maud::{Markup, html};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
    /// 50, 90, 99, 99.9, ... at equal distances, so that the tail gets the room it deserves.
    Percentile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Number,
    Percent,
}

#[derive(Clone, Debug)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
    pub unit: Unit,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    /// Class in the style sheet: colour and dashes.
    pub class: String,
    pub points: Vec<(f64, f64)>,
    /// True if points have dots, when there are few of them.
    pub dots: bool,
}

#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

impl Chart {
    /// Returns a figure element with the drawing and its legend; empty if there is nothing to draw.
    pub fn draw(&self) -> Markup {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Mapping::new(&self.x, points().map(|point| point.0), LEFT, WIDTH - RIGHT);
        let y = Mapping::new(&self.y, points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
        let (Some(x), Some(y)) = (x, y) else { return Markup::default() };
        let drawn = || self.lines.iter().filter(|line| !line.points.is_empty());
        html! {
            figure class="chart" {
                figcaption { (self.title) }
                svg viewBox=(format_args!("0 0 {WIDTH} {HEIGHT}"))
                    role="img" aria-label=(self.title) {
                    (self.draw_axes(&x, &y))
                    @for line in drawn() {
                        (self.draw_line(line, &x, &y))
                    }
                }
                div class="legend" {
                    @for line in drawn() {
                        span class={ "key " (line.class) } {
                            svg viewBox="0 0 24 8" { path class="line" d="M0 4H24" {} }
                            (line.name)
                        }
                    }
                }
            }
        }
    }

    fn draw_axes(&self, x: &Mapping, y: &Mapping) -> Markup {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let (middle_x, middle_y) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        html! {
            @for (value, label) in x.ticks(&self.x) {
                @let place = x.place(value);
                path class="grid" d=(format_args!("M{place:.1} {TOP}V{bottom}")) {}
                text class="tick" text-anchor="middle"
                    x=(rounded(place)) y=(rounded(bottom + 16.0)) { (label) }
            }
            @for (value, label) in y.ticks(&self.y) {
                @let place = y.place(value);
                path class="grid" d=(format_args!("M{LEFT} {place:.1}H{right}")) {}
                text class="tick" text-anchor="end"
                    x=(rounded(LEFT - 7.0)) y=(rounded(place + 4.0)) { (label) }
            }
            path class="axis" d=(format_args!("M{LEFT} {TOP}V{bottom}H{right}")) {}
            text class="axis-title" x=(rounded(middle_x)) y=(rounded(HEIGHT - 8.0))
                text-anchor="middle" { (self.x.title) }
            text class="axis-title" text-anchor="middle"
                transform=(format_args!("translate(14 {middle_y:.1}) rotate(-90)")) {
                (self.y.title)
            }
        }
    }

    fn draw_line(&self, line: &Line, x: &Mapping, y: &Mapping) -> Markup {
        let place = |point: &(f64, f64)| (rounded(x.place(point.0)), rounded(y.place(point.1)));
        let places: Vec<(String, String)> = line.points.iter().map(place).collect();
        let joined: Vec<String> = places.iter().map(|(x, y)| format!("{x},{y}")).collect();
        // For the pointer: one label per point, in the same order.
        let label = |point: &(f64, f64)| {
            format!("{}: {}", value_text(&self.x, point.0), value_text(&self.y, point.1))
        };
        let labels: Vec<String> = line.points.iter().map(label).collect();
        html! {
            g class=(line.class) {
                polyline class="line" data-name=(line.name) data-labels=(labels.join("|"))
                    points=(joined.join(" ")) {}
                @if line.dots {
                    @for (x, y) in &places {
                        circle class="dot" cx=(x) cy=(y) r="4" {}
                    }
                }
            }
        }
    }
}

/// Formats a coordinate of the drawing.
fn rounded(place: f64) -> String {
    format!("{place:.1}")
}

/// Maps values of an axis to coordinates.
struct Mapping {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Mapping {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Option<Mapping> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        // 100 % is drawn at the end of the axis, wherever the percentiles before it end.
        let in_range = values.filter(|value| axis.scale != Scale::Percentile || *value < 100.0);
        for value in in_range.map(|value| position(axis.scale, value)) {
            low = low.min(value);
            high = high.max(value);
        }
        if !low.is_finite() || !high.is_finite() {
            return None;
        }
        match axis.scale {
            // From zero, so that heights can be compared.
            Scale::Linear => low = low.min(0.0),
            Scale::Log => {
                // Below 100 ns there is only the cost of the clock itself: nothing of interest, and
                // much room.
                let least = if axis.unit == Unit::Nanoseconds && high > 3.0 { 2.0 } else { low };
                low = low.floor().max(least.floor());
                high = high.ceil();
            }
            Scale::Percentile => {
                low = 0.0;
                high += 0.25;
            }
        }
        if high <= low {
            high = low + 1.0;
        }
        if axis.scale == Scale::Linear && axis.unit != Unit::Percent {
            high *= 1.05;
        }
        Some(Mapping { scale: axis.scale, low, high, from, to })
    }

    fn place(&self, value: f64) -> f64 {
        let share = (position(self.scale, value) - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self, axis: &Axis) -> Vec<(f64, String)> {
        let values: Vec<f64> = match self.scale {
            Scale::Linear => {
                let raw = (self.high - self.low) / 5.0;
                let magnitude = 10f64.powf(raw.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .into_iter()
                    .map(|factor| factor * magnitude)
                    .find(|step| *step >= raw)
                    .unwrap_or(raw);
                let first = (self.low / step).ceil() as i64;
                let last = (self.high / step).floor() as i64;
                (first..=last).map(|index| index as f64 * step).collect()
            }
            Scale::Log => {
                (self.low as i32..=self.high as i32).map(|power| 10f64.powi(power)).collect()
            }
            Scale::Percentile => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999]
                .into_iter()
                .filter(|value| position(Scale::Percentile, *value) <= self.high + 1e-9)
                .collect(),
        };
        let whole = self.scale == Scale::Linear && values.iter().all(|value| value.fract() == 0.0);
        let label = |value: f64| match axis.unit {
            Unit::Number if whole && value.abs() < 1e4 => format!("{value:.0}"),
            _ => value_text(axis, value),
        };
        values.into_iter().map(|value| (value, label(value))).collect()
    }
}

fn position(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.max(1e-9).log10(),
        Scale::Percentile => -(1.0 - value.min(99.999_999) / 100.0).log10(),
    }
}

fn value_text(axis: &Axis, value: f64) -> String {
    match axis.unit {
        Unit::Nanoseconds => nanoseconds_text(value),
        Unit::Number => number_text(value),
        Unit::Percent => {
            format!("{} %", format!("{value:.4}").trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, points: Vec<(f64, f64)>) -> Chart {
        let axis = |scale| Axis { title: "axis <1>".to_string(), scale, unit: Unit::Number };
        let line =
            Line { name: "A & B".to_string(), class: "side-a".to_string(), points, dots: true };
        Chart { title: "t".to_string(), x: axis(scale), y: axis(Scale::Log), lines: vec![line] }
    }

    #[test]
    fn every_point_is_drawn_inside_the_frame() {
        for scale in [Scale::Linear, Scale::Log, Scale::Percentile] {
            let points: Vec<(f64, f64)> =
                (1..=50).map(|i| (f64::from(i) * 2.0, f64::from(i * i))).collect();
            let html = chart(scale, points).draw().into_string();
            let drawn = html.split(" points=\"").nth(1).unwrap().split('"').next().unwrap();
            assert_eq!(drawn.split(' ').count(), 50);
            assert_eq!(html.matches("<circle").count(), 50);
            for place in drawn.split(' ') {
                let (x, y) = place.split_once(',').unwrap();
                assert!((LEFT..=WIDTH - RIGHT).contains(&x.parse().unwrap()), "{place}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y.parse().unwrap()), "{place}");
            }
            assert!(html.contains("A &amp; B") && html.contains("axis &lt;1&gt;"));
        }
    }

    #[test]
    fn the_tail_of_a_percentile_axis_is_as_wide_as_its_body() {
        let place = |value| position(Scale::Percentile, value);
        assert!((place(99.0) - place(90.0) - (place(99.9) - place(99.0))).abs() < 1e-9);
    }

    #[test]
    fn nothing_to_draw_gives_nothing() {
        assert_eq!(chart(Scale::Linear, Vec::new()).draw().into_string(), "");
    }
}
