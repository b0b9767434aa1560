//! Bars, as SVG.

use std::fmt::Write;

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// On the axis.
    pub value: f64,
    /// Written at its end.
    pub label: String,
}

/// Bars that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Written before them.
    pub name: String,
    /// Of imp.
    pub imp: Bar,
    /// Of llama.cpp.
    pub peer: Option<Bar>,
}

const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
/// Where the names end and the axis begins, where it ends, and where labels end.
const LEFT: f64 = 290.0;
const RIGHT: f64 = 800.0;
const WIDTH: f64 = 880.0;
const TOP: f64 = 70.0;
const IMP: &str = "#2b6cb0";
const PEER: &str = "#a0aec0";

/// Horizontal bars, group under group, on an axis from 0.
pub fn plot(title: &str, groups: &[Group]) -> String {
    let height = |g: &Group| BAR * if g.peer.is_some() { 2.0 } else { 1.0 };
    let bottom = TOP + groups.iter().map(|g| height(g) + GAP).sum::<f64>();
    let values = groups.iter().flat_map(|g| [Some(&g.imp), g.peer.as_ref()]);
    let most = values.flatten().map(|b| b.value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let step = step(most);
    let end = (most / step).ceil().max(1.0) * step;
    let x = |value: f64| LEFT + (RIGHT - LEFT) * value / end;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>\n",
        bottom + 30.0,
        escaped(title)
    );
    // Writing to a String does not fail.
    let mut add = |text: String| _ = writeln!(svg, "{text}");
    for (i, (name, color)) in [("imp", IMP), ("llama.cpp", PEER)].into_iter().enumerate() {
        let at = LEFT + 100.0 * i as f64;
        add(format!("<rect x=\"{at}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{color}\"/>"));
        add(format!("<text x=\"{}\" y=\"46\">{name}</text>", at + 18.0));
    }
    for i in 0..=(end / step).round() as usize {
        let value = step * i as f64;
        let at = x(value);
        add(format!(
            "<line x1=\"{at:.1}\" y1=\"{:.0}\" x2=\"{at:.1}\" y2=\"{bottom:.0}\" \
             stroke=\"#e2e8f0\"/>",
            TOP - 10.0
        ));
        let below = bottom + 16.0;
        let number = (value * 100.0).round() / 100.0;
        add(format!("<text x=\"{at:.1}\" y=\"{below:.0}\" text-anchor=\"middle\">{number}</text>"));
    }
    let mut y = TOP;
    for group in groups {
        let middle = y + height(group) / 2.0 + 4.0;
        add(format!(
            "<text x=\"{}\" y=\"{middle:.0}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            escaped(&group.name)
        ));
        for (bar, color) in [(Some(&group.imp), IMP), (group.peer.as_ref(), PEER)] {
            let Some(bar) = bar else { continue };
            let width = (x(bar.value) - LEFT).max(0.0);
            add(format!(
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR}\" \
                 fill=\"{color}\"/>"
            ));
            let (at, base) = (LEFT + width + 4.0, y + BAR - 4.0);
            let label = escaped(&bar.label);
            add(format!("<text x=\"{at:.1}\" y=\"{base:.0}\">{label}</text>"));
            y += BAR;
        }
        y += GAP;
    }
    svg + "</svg>\n"
}

/// 1, 2 or 5 times a power of ten, of which about five reach `most`.
fn step(most: f64) -> f64 {
    let raw = if most > 0.0 { most / 5.0 } else { 1.0 };
    let power = 10f64.powf(raw.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|t| t * power >= raw * 0.999);
    times.unwrap_or(10.0) * power
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(value: f64) -> Bar {
        Bar { value, label: format!("{value}") }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let group = Group { name: "8b <tg>".into(), imp: bar(2.0), peer: Some(bar(1.0)) };
        let svg = plot("Speed", &[group]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("8b &lt;tg&gt;") && !svg.contains("<tg>"));
        // The axis ends at 2.
        assert!(svg.contains("width=\"510.0\" height=\"16\" fill=\"#2b6cb0\""), "{svg}");
        assert!(svg.contains("width=\"255.0\" height=\"16\" fill=\"#a0aec0\""), "{svg}");
    }
    #[test]
    fn axes_have_round_numbers() {
        assert_eq!([step(2.0), step(1.3), step(100.0)], [0.5, 0.5, 20.0]);
        assert_eq!(step(0.0), 1.0);
        assert!(plot("nothing", &[]).contains("</svg>"));
    }
    #[test]
    fn a_model_alone_has_one_bar() {
        let svg = plot("x", &[Group { name: "m".into(), imp: bar(1.0), peer: None }]);
        assert_eq!(svg.matches("height=\"16\"").count(), 1);
    }
}
