//! Pictures as SVG that takes its colours from the page or picture around it.

use std::fmt::Write;

/// A plot area with linear axes.
pub struct Chart {
    svg: String,
    /// Size of the whole picture.
    size: (f64, f64),
    /// Values at the left and right, at the bottom and top edge of the plot area.
    x: (f64, f64),
    y: (f64, f64),
}

/// Left, right, top, bottom.
const MARGINS: [f64; 4] = [56.0, 12.0, 10.0, 34.0];

/// `text` for use in HTML text and attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart {
    /// An empty chart; a range without extent is widened.
    pub fn new(size: (f64, f64), x: (f64, f64), y: (f64, f64)) -> Self {
        let widened = |(low, high): (f64, f64)| if high > low { (low, high) } else { (low - 0.5, low + 0.5) };
        let svg = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\">", size.0, size.1);
        Self { svg, size, x: widened(x), y: widened(y) }
    }

    fn px(&self, x: f64) -> f64 {
        let [left, right, ..] = MARGINS;
        left + (x - self.x.0) / (self.x.1 - self.x.0) * (self.size.0 - left - right)
    }

    fn py(&self, y: f64) -> f64 {
        let [_, _, top, bottom] = MARGINS;
        self.size.1 - bottom - (y - self.y.0) / (self.y.1 - self.y.0) * (self.size.1 - top - bottom)
    }

    /// Grid lines and labels along y, labels along x, and what the axes show.
    pub fn axes(&mut self, x_title: &str, y_title: &str, x_label: fn(f64) -> String, y_label: fn(f64) -> String) {
        let (left, right) = (self.px(self.x.0), self.px(self.x.1));
        for tick in ticks(self.y) {
            let y = self.py(tick);
            let _ = write!(
                self.svg,
                "<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 3.5,
                y_label(tick)
            );
        }
        let bottom = self.py(self.y.0);
        for tick in ticks(self.x) {
            let x = self.px(tick);
            let _ = write!(
                self.svg,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 14.0,
                x_label(tick)
            );
        }
        let _ = write!(
            self.svg,
            "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>\
             <text class=\"title\" x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{x_title}</text>\
             <text class=\"title\" transform=\"translate(11 {:.1}) rotate(-90)\" text-anchor=\"middle\">{y_title}</text>",
            self.size.1 - 4.0,
            (self.py(self.y.0) + self.py(self.y.1)) / 2.0,
        );
    }

    /// A rectangle between two corners with a text that appears under the pointer.
    pub fn rect(&mut self, class: &str, (x0, y0): (f64, f64), (x1, y1): (f64, f64), hint: &str) {
        let (left, right) = (self.px(x0.min(x1)), self.px(x0.max(x1)));
        let (top, bottom) = (self.py(y0.max(y1)), self.py(y0.min(y1)));
        let _ = write!(
            self.svg,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\">{}</rect>",
            (right - left).max(0.6),
            (bottom - top).max(0.0),
            title(hint)
        );
    }

    /// A line through points.
    pub fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (index, &(x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if index == 0 { 'M' } else { 'L' }, self.px(x), self.py(y));
        }
        let _ = write!(self.svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    /// A dot with a text that appears under the pointer.
    pub fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, hint: &str) {
        let (cx, cy) = (self.px(x), self.py(y));
        let _ = write!(
            self.svg,
            "<circle class=\"{class}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius}\">{}</circle>",
            title(hint)
        );
    }

    /// A text beside a point.
    pub fn label(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        let (x, y) = (self.px(x), self.py(y) - 5.0);
        let _ = write!(
            self.svg,
            "<text class=\"note\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        );
    }

    /// The picture.
    pub fn finish(self) -> String {
        self.svg + "</svg>"
    }
}

fn title(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("<title>{}</title>", escape(hint)) }
}

/// About five round values inside a range.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let raw = (high - low) / 5.0;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * magnitude).find(|s| *s >= raw * 0.999).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last.min(first + 20)).map(|i| i as f64 * step).collect()
}

/// A histogram without axes: bars in `counts`, the kept range shaded, both as fractions of the width.
pub fn sparkline(counts: &[f64], kept: (f64, f64)) -> String {
    let (width, height) = (220.0, 56.0);
    let top = counts.iter().fold(0.0f64, |m, &c| m.max(c));
    // The logarithm shows the tails, which are what a range cuts.
    let level = |count: f64| if count > 0.0 { (1.0 + count).ln() / (1.0 + top).ln() } else { 0.0 };
    let mut svg = format!("<svg class=\"spark\" viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\">");
    let (from, to) = (kept.0.clamp(0.0, 1.0) * width, kept.1.clamp(0.0, 1.0) * width);
    let _ = write!(
        svg,
        "<rect class=\"kept\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{height}\"/>",
        (to - from).max(0.0)
    );
    let step = width / counts.len().max(1) as f64;
    let mut path = String::new();
    for (index, &count) in counts.iter().enumerate().filter(|(_, c)| **c > 0.0) {
        let h = (level(count) * (height - 2.0)).max(1.0);
        let _ = write!(path, "M{:.1} {height}v-{h:.1}h{:.1}v{h:.1}z", index as f64 * step, step * 0.9);
    }
    let _ = write!(svg, "<path class=\"bars\" d=\"{path}\"/>");
    for (edge, inside) in [(from, kept.0 > 0.002), (to, kept.1 < 0.998)] {
        if inside {
            let _ = write!(svg, "<path class=\"edge\" d=\"M{edge:.1} 0V{height}\"/>");
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((0.0, 10.0)), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks((0.0, 48.0)), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert!(ticks((3.0, 3.5)).iter().all(|t| (3.0..=3.5).contains(t)));
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
