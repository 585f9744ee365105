//! Line plots as SVG text, to stand in a page: no script, nothing loaded. Colours come from the page's style sheet (`.l0`, `.l1`, …),
//! points carry their values as titles, which browsers show on hovering. Called by [`super::html`].

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// Lines with more points are thinned: of each group the largest value stays, so that no peak is lost.
const POINTS_MAX: usize = 900;
/// Lines with more points have no marks of their own.
const MARKS_MAX: usize = 120;

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Values at or below 0 are left out.
    Log,
    /// Quantiles from 0 to 1, each further nine as wide as the one before.
    Nines,
}

/// A line of a plot.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// See the module.
pub struct Plot<'p> {
    pub title: &'p str,
    pub x_label: &'p str,
    pub y_label: &'p str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub lines: Vec<Line>,
}

/// One axis, ready to place values on.
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Plot<'_> {
    /// The plot, or nothing when no line has a point.
    pub fn svg(&self) -> String {
        let lines: Vec<(&str, Vec<(f64, f64)>)> =
            self.lines.iter().map(|line| (line.name.as_str(), thin(self.placeable(&line.points)))).collect();
        let all = || lines.iter().flat_map(|(_, points)| points.iter());
        if all().next().is_none() {
            return String::new();
        }
        let x = Axis::new(self.x_scale, all().map(|point| point.0), LEFT, WIDTH - RIGHT, false);
        let y = Axis::new(self.y_scale, all().map(|point| point.1), HEIGHT - BOTTOM, TOP, true);
        let mut out = format!(
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(self.title),
            escape(self.title)
        );
        self.frame(&x, &y, &mut out);
        let mut legend = LEFT;
        for (number, (name, points)) in lines.iter().enumerate() {
            draw(number, name, points, &x, &y, &mut out);
            let _ = write!(
                out,
                "<line class=\"l{number}\" x1=\"{legend:.0}\" x2=\"{:.0}\" y1=\"14\" y2=\"14\"/><text x=\"{:.0}\" y=\"18\">{}</text>",
                legend + 18.0,
                legend + 23.0,
                escape(name)
            );
            legend += 40.0 + 7.0 * name.chars().count() as f64;
        }
        out.push_str("</svg></figure>\n");
        out
    }

    fn placeable(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let fits = |scale: Scale, value: f64| value.is_finite() && (scale != Scale::Log || value > 0.0);
        points.iter().copied().filter(|&(x, y)| fits(self.x_scale, x) && fits(self.y_scale, y)).collect()
    }

    fn frame(&self, x: &Axis, y: &Axis, out: &mut String) {
        let bottom = HEIGHT - BOTTOM;
        for (value, text) in y.ticks() {
            let at = y.place(value);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"y\" x=\"{:.0}\" y=\"{:.1}\">{text}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            );
        }
        for (value, text) in x.ticks() {
            let at = x.place(value);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><text class=\"x\" x=\"{at:.1}\" y=\"{:.0}\">{text}</text>",
                bottom + 16.0
            );
        }
        let _ = write!(
            out,
            "<text class=\"x\" x=\"{:.0}\" y=\"{:.0}\">{}</text><text class=\"x\" transform=\"translate(14 {:.0}) rotate(-90)\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(self.x_label),
            (TOP + bottom) / 2.0,
            escape(self.y_label)
        );
    }
}

fn draw(number: usize, name: &str, points: &[(f64, f64)], x: &Axis, y: &Axis, out: &mut String) {
    let _ = write!(out, "<polyline class=\"l{number}\" points=\"");
    for &(at_x, at_y) in points {
        let _ = write!(out, "{:.1},{:.1} ", x.place(at_x), y.place(at_y));
    }
    out.push_str("\"/>");
    if points.len() > MARKS_MAX {
        return;
    }
    for &(at_x, at_y) in points {
        let _ = write!(
            out,
            "<circle class=\"l{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"><title>{}: {} at {}</title></circle>",
            x.place(at_x),
            y.place(at_y),
            escape(name),
            number_text(at_y),
            if x.scale == Scale::Nines { percent_text(at_x) } else { number_text(at_x) },
        );
    }
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, start: f64, end: f64, from_zero: bool) -> Axis {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        // A maximum (1) lies behind all nines: at the end of the axis.
        for value in values.filter(|value| scale != Scale::Nines || *value < 1.0) {
            (from, to) = (from.min(value), to.max(value));
        }
        match scale {
            Scale::Linear => {
                from = if from_zero { from.min(0.0) } else { from };
                to = if from_zero { to * 1.05 } else { to };
            }
            Scale::Log => (from, to) = (from / 1.1, to * 1.1),
            Scale::Nines => (from, to) = (0.0, 1.0 - (1.0 - to.clamp(0.0, 1.0)) / 3.0),
        }
        let mut axis = Axis { scale, from: 0.0, to: 1.0, start, end };
        (axis.from, axis.to) = (axis.warp(from), axis.warp(to));
        if axis.to - axis.from < 1e-9 {
            (axis.from, axis.to) = (axis.from - 0.5, axis.to + 0.5);
        }
        axis
    }

    fn warp(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
            Scale::Nines => -(1.0 - value).max(1e-12).log10(),
        }
    }

    fn place(&self, value: f64) -> f64 {
        let part = (self.warp(value) - self.from) / (self.to - self.from);
        self.start + part.clamp(0.0, 1.0) * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Nines => (0..=8)
                .map(|nines| 1.0 - 10f64.powi(-nines))
                .filter(|quantile| self.warp(*quantile) <= self.to + 1e-9)
                .map(|quantile| (quantile, percent_text(quantile)))
                .collect(),
            Scale::Log => {
                let narrow = self.to - self.from < 2.5;
                let steps: &[f64] = if narrow { &[1.0, 2.0, 5.0] } else { &[1.0] };
                (self.from.floor() as i32..=self.to.ceil() as i32)
                    .flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)))
                    .filter(|value| (self.from..=self.to).contains(&value.log10()))
                    .map(|value| (value, number_text(value)))
                    .collect()
            }
            Scale::Linear => {
                let rough = (self.to - self.from) / 6.0;
                let decade = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|it| it * decade).into_iter().find(|it| *it >= rough);
                let step = step.unwrap_or(decade);
                let first = (self.from / step).ceil() as i64;
                let last = (self.to / step).floor() as i64;
                (first..=last.min(first + 50))
                    .map(|number| number as f64 * step)
                    .map(|value| (value, number_text(value)))
                    .collect()
            }
        }
    }
}

fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points;
    }
    let group = points.len().div_ceil(POINTS_MAX);
    let largest = |group: &[(f64, f64)]| group.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(group).filter_map(largest).collect()
}

/// Three figures, with thousands and millions shortened.
pub fn number_text(value: f64) -> String {
    let (value, unit) = match value.abs() {
        it if it >= 1e9 => (value / 1e9, "G"),
        it if it >= 1e6 => (value / 1e6, "M"),
        it if it >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let places = match value.abs() {
        it if it >= 100.0 || it == 0.0 => 0,
        it if it >= 10.0 => 1,
        it if it >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn percent_text(quantile: f64) -> String {
    let text = format!("{:.6}", quantile * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Text that may stand anywhere in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(y_scale: Scale, points: Vec<(f64, f64)>) -> String {
        let lines = vec![Line { name: "a<b".into(), points }];
        Plot { title: "t & u", x_label: "x", y_label: "y", x_scale: Scale::Linear, y_scale, lines }.svg()
    }

    #[test]
    fn points_lie_where_their_values_are() {
        let svg = plot(Scale::Log, vec![(0.0, 1.0), (5.0, 10.0), (10.0, 100.0), (11.0, 0.0)]);
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let places: Vec<Vec<f64>> = points
            .split_whitespace()
            .map(|point| point.split(',').map(|number| number.parse().unwrap()).collect())
            .collect();
        assert_eq!(places.len(), 3, "0 has no place on a logarithmic axis");
        assert_eq!((places[0][0], places[2][0]), (LEFT, WIDTH - RIGHT));
        let middle = (places[0][1] + places[2][1]) / 2.0;
        assert!((places[1][1] - middle).abs() < 0.2 && places[0][1] > places[2][1], "{places:?}");
        assert!(svg.contains("a&lt;b") && svg.contains("t &amp; u") && !svg.contains("a<b"));
    }

    #[test]
    fn odd_values_do_no_harm_and_peaks_survive_thinning() {
        assert_eq!(plot(Scale::Linear, Vec::new()), "");
        assert_eq!(plot(Scale::Log, vec![(1.0, 0.0), (2.0, f64::NAN)]), "");
        assert!(plot(Scale::Linear, vec![(1.0, 5.0)]).contains("<circle"));
        assert!(plot(Scale::Linear, vec![(0.0, 0.0), (0.0, 0.0)]).contains("<svg"));
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|x| (f64::from(x), 1.0)).collect();
        points[77_777].1 = 9.0;
        let thinned = thin(points);
        assert!(thinned.len() <= POINTS_MAX && thinned.iter().any(|point| point.1 == 9.0));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.25, 1.5, 12.0, 150.0, 9000.0, 48_000.0, 1.25e6, 3e9].map(number_text);
        assert_eq!(texts, ["0", "0.25", "1.5", "12", "150", "9000", "48k", "1.25M", "3G"]);
        assert_eq!(percent_text(0.9999), "99.99%");
    }
}
