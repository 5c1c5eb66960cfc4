//! Two kinds of diagram as SVG: bars in groups, and points over a logarithmic axis.

use std::fmt::Write;

/// Told apart by the colour-blind, too (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999", "#000000"];
pub(super) const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Of a character, at the font's size.
const CHARACTER: f64 = 6.6;
const LINE: f64 = 18.0;

/// Bars of one unit, one group under the other.
pub(super) struct Bars {
    pub(super) title: String,
    /// Of the axis.
    pub(super) unit: String,
    pub(super) groups: Vec<Group>,
}

/// Bars that are compared with each other.
pub(super) struct Group {
    pub(super) label: String,
    /// Series and value.
    pub(super) bars: Vec<(String, f64)>,
}

/// Points joined by lines, one for each series.
pub(super) struct Lines {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) series: Vec<(String, Vec<(f64, f64)>)>,
}

/// A part of a drawing, and its height.
pub(super) struct Piece {
    body: String,
    height: f64,
}

/// A whole file, piece under piece.
pub(super) fn file(pieces: &[Piece]) -> String {
    let height: f64 = pieces.iter().map(|piece| piece.height).sum();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut y = 0.0;
    for piece in pieces {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "<g transform=\"translate(0 {y})\">\n{}</g>", piece.body);
        y += piece.height;
    }
    text + "</svg>\n"
}

impl Bars {
    pub(super) fn draw(&self) -> Piece {
        const BAR: f64 = 14.0;
        const BETWEEN: f64 = 10.0;
        let names = distinct(self.groups.iter().flat_map(|g| g.bars.iter().map(|(name, _)| name)));
        let values = self.groups.iter().flat_map(|g| g.bars.iter().map(|(_, value)| *value));
        let ticks = ticks(values.fold(0.0, f64::max));
        let most = ticks.last().copied().unwrap_or(1.0);
        let longest = self.groups.iter().map(|g| g.label.chars().count()).max().unwrap_or(0);
        let left = MARGIN + longest as f64 * CHARACTER + 8.0;
        // Room for a value behind the longest bar.
        let right = WIDTH - MARGIN - 60.0;
        let x = |value: f64| left + value / most * (right - left);
        let bars: usize = self.groups.iter().map(|group| group.bars.len()).sum();
        let top = MARGIN + 2.0 * LINE + legend_height(&names) + 8.0;
        let bottom = top + bars as f64 * BAR + self.groups.len() as f64 * BETWEEN;

        let mut drawing = Drawing::titled(&self.title, &names);
        for tick in &ticks {
            drawing.line((x(*tick), top), (x(*tick), bottom), "#dddddd");
            drawing.text(x(*tick), bottom + LINE, "middle", &number(*tick));
        }
        drawing.text((left + right) / 2.0, bottom + 2.0 * LINE, "middle", &self.unit);
        let mut y = top + BETWEEN / 2.0;
        for group in &self.groups {
            let height = group.bars.len() as f64 * BAR;
            drawing.text(left - 8.0, y + height / 2.0 + 4.0, "end", &group.label);
            for (name, value) in &group.bars {
                let colour = colour(&names, name);
                let width = (x(*value) - left).max(1.0);
                let _ = writeln!(
                    drawing.body,
                    "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
                     fill=\"{colour}\"/>",
                    BAR - 2.0
                );
                drawing.text(left + width + 4.0, y + BAR - 4.0, "start", &number(*value));
                y += BAR;
            }
            y += BETWEEN;
        }
        drawing.line((left, top), (left, bottom), "#333333");
        Piece { body: drawing.body, height: bottom + 2.0 * LINE + MARGIN }
    }
}

impl Lines {
    pub(super) fn draw(&self) -> Piece {
        const HEIGHT: f64 = 320.0;
        let names: Vec<&String> = self.series.iter().map(|(name, _)| name).collect();
        let points = || self.series.iter().flat_map(|(_, points)| points.iter().copied());
        let decade = |value: f64| value.max(1.0).log10();
        let first = points().map(|(x, _)| decade(x)).fold(f64::INFINITY, f64::min).floor();
        let last = points().map(|(x, _)| decade(x)).fold(first + 1.0, f64::max).ceil();
        let ticks = ticks(points().map(|(_, y)| y).fold(0.0, f64::max));
        let most = ticks.last().copied().unwrap_or(1.0);
        let (left, right) = (MARGIN + 56.0, WIDTH - MARGIN - 20.0);
        let top = MARGIN + 2.0 * LINE + legend_height(&names) + 8.0;
        let bottom = top + HEIGHT;
        let x = |value: f64| left + (decade(value) - first) / (last - first) * (right - left);
        let y = |value: f64| bottom - value / most * HEIGHT;

        let mut drawing = Drawing::titled(&self.title, &names);
        for tick in &ticks {
            drawing.line((left, y(*tick)), (right, y(*tick)), "#dddddd");
            drawing.text(left - 6.0, y(*tick) + 4.0, "end", &number(*tick));
        }
        for exponent in first as i32..=last as i32 {
            let tick = 10f64.powi(exponent);
            drawing.line((x(tick), top), (x(tick), bottom), "#dddddd");
            drawing.text(x(tick), bottom + LINE, "middle", &number(tick));
        }
        drawing.text((left + right) / 2.0, bottom + 2.0 * LINE, "middle", &self.x);
        drawing.text(MARGIN, top - 8.0, "start", &self.y);
        drawing.line((left, top), (left, bottom), "#333333");
        drawing.line((left, bottom), (right, bottom), "#333333");
        for (name, points) in &self.series {
            let colour = colour(&names, name);
            let at: Vec<(f64, f64)> = points.iter().map(|(px, py)| (x(*px), y(*py))).collect();
            let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                drawing.body,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                path.join(" ")
            );
            for (x, y) in at {
                let _ = writeln!(
                    drawing.body,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
        }
        Piece { body: drawing.body, height: bottom + 2.0 * LINE + MARGIN }
    }
}

#[derive(Default)]
struct Drawing {
    body: String,
}

impl Drawing {
    /// With a title and a legend.
    fn titled(title: &str, names: &[&String]) -> Self {
        let mut drawing = Self::default();
        let _ = writeln!(
            drawing.body,
            "<text x=\"{MARGIN}\" y=\"{:.1}\" font-size=\"15\" font-weight=\"bold\">{}</text>",
            MARGIN + LINE - 4.0,
            escaped(title)
        );
        for (name, (x, row)) in names.iter().zip(legend_places(names)) {
            let y = MARGIN + 2.0 * LINE + row as f64 * LINE;
            let _ = writeln!(
                drawing.body,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{}\"/>",
                y - 10.0,
                colour(names, name)
            );
            drawing.text(x + 15.0, y, "start", name);
        }
        drawing
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
            from.0, from.1, to.0, to.1
        );
    }
}

/// Where each name of the legend begins: how far from the left, and in which row.
fn legend_places(names: &[&String]) -> Vec<(f64, usize)> {
    let (mut x, mut row) = (MARGIN, 0);
    let place = |name: &&String| {
        let width = 34.0 + name.chars().count() as f64 * CHARACTER;
        if x + width > WIDTH - MARGIN && x > MARGIN {
            (x, row) = (MARGIN, row + 1);
        }
        let place = (x, row);
        x += width;
        place
    };
    names.iter().map(place).collect()
}

fn legend_height(names: &[&String]) -> f64 {
    legend_places(names).last().map_or(0.0, |(_, row)| (row + 1) as f64 * LINE)
}

fn colour(names: &[&String], name: &String) -> &'static str {
    let at = names.iter().position(|other| *other == name).unwrap_or_default();
    COLOURS.get(at % COLOURS.len()).copied().unwrap_or("black")
}

fn distinct<'a>(all: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut names = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// From 0 to at least `most` in four to ten even steps of 1, 2 or 5.
fn ticks(most: f64) -> Vec<f64> {
    if !(most > 0.0 && most.is_finite()) {
        return vec![0.0, 1.0];
    }
    let scale = 10f64.powf((most / 4.0).log10().floor());
    let fits = |step: &f64| most / (step * scale) <= 10.0;
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(fits).unwrap_or(10.0) * scale;
    (0..=(most / step - 1e-9).ceil() as u32).map(|at| f64::from(at) * step).collect()
}

/// Short: 1.5M for 1,500,000.
fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 999_500_000.0 => (value / 1e9, "G"),
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 9_999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    text + unit
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks() {
        for (most, expect) in [
            (10.0, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]),
            (35.0, vec![0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0]),
            (101.0, vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0]),
            (0.0, vec![0.0, 1.0]),
        ] {
            assert_eq!(ticks(most), expect, "{most}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (7.25, "7.25"),
            (20.0, "20"),
            (123.4, "123"),
            (9_999.0, "9999"),
            (16_384.0, "16.4k"),
            (1_500_000.0, "1.5M"),
            (1e9, "1G"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_legend_wraps() {
        let name = "a name of some length".to_owned();
        let places = legend_places(&[&name; 8]);
        assert_eq!(places[0], (MARGIN, 0));
        assert!(places.iter().all(|(x, _)| *x < WIDTH - MARGIN - 21.0 * CHARACTER));
        assert_eq!(places.last().unwrap().1, 1);
    }
}
