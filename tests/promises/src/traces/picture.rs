//! Draws a chain of linked traces as SVG, from the spans that a collector received. `make pages`
//! writes docs/images/retry-chain.svg with it.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use harness::otlp::Received;

/// If this variable is set, the picture is written.
const WRITE: &str = "REDELIVER_WRITE_PAGES";

const WIDTH: u32 = 860;
const ROW: u32 = 64;
const TOP: u32 = 54;
const LEFT: u32 = 120;
const LABELS: u32 = 300;

/// The colors of the parts of an attempt.
const COLORS: [(&str, &str); 4] = [
    ("content", "#8a63d2"),
    ("dns", "#c27c0e"),
    ("smtp", "#1f77b4"),
    ("settle", "#2e8b57"),
];

/// Writes the picture of a chain: the span of the bounce, and the attempts in their order.
pub(super) fn write(sent: &Received, attempts: &[Received], spans: &[Received]) {
    if env::var_os(WRITE).is_none() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images/retry-chain.svg");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, draw(sent, attempts, spans)).unwrap();
}

fn draw(sent: &Received, attempts: &[Received], spans: &[Received]) -> String {
    let height = TOP + ROW * (1 + attempts.len() as u32) + 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"ui-sans-serif, system-ui, sans-serif\" font-size=\"13\">\n\
         <title>One retry chain as linked traces</title>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" \
         fill=\"#57606a\"/></marker></defs>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\" \
         stroke=\"#d0d7de\"/>\n"
    );
    legend(&mut svg);
    row(&mut svg, 0, sent, &[], "bounce accepted");
    for (n, attempt) in (1..).zip(attempts) {
        let parts: Vec<&Received> = spans
            .iter()
            .filter(|span| span.span.parent_span_id == attempt.span.span_id)
            .collect();
        let reply = parts.iter().find_map(|part| {
            let code = part.attribute("smtp.reply.code")?;
            let status = part
                .attribute("smtp.reply.enhanced_code")
                .unwrap_or_default();
            Some(format!("{code} {status}"))
        });
        let label = format!("attempt {n}: {}", reply.unwrap_or_default());
        row(&mut svg, n, attempt, &parts, &label);
        link(&mut svg, n, 0, 34 + 14 * n, "4 0");
        if n > 1 {
            link(&mut svg, n, n - 1, 14, "4 4");
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"26\" fill=\"#57606a\">links: — origin, - - previous</text>"
    );
    for (n, (name, color)) in (0..).zip(COLORS) {
        let x = LEFT + LABELS + 110 * n;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"16\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"26\" fill=\"#24292f\">{name}</text>",
            x + 18
        );
    }
}

/// Draws a span with its parts. The scale of each row is its own.
fn row(svg: &mut String, n: u32, span: &Received, parts: &[&Received], label: &str) {
    let y = TOP + ROW * n;
    let trace: String = span.span.trace_id[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#24292f\" font-weight=\"600\">{label}</text>\
         <text x=\"{LEFT}\" y=\"{}\" fill=\"#57606a\">{} · trace {trace}…</text>",
        y + 18,
        y + 36,
        span.span.name
    );
    let all = || parts.iter().map(|part| &part.span).chain([&span.span]);
    let began = all()
        .map(|span| span.start_time_unix_nano)
        .min()
        .unwrap_or(0);
    let ended = all().map(|span| span.end_time_unix_nano).max().unwrap_or(0);
    let whole = (ended - began).max(1) as f64;
    let (x, width) = (LEFT + LABELS, WIDTH - LEFT - LABELS - 90);
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"26\" rx=\"4\" fill=\"#eaeef2\"/>\
         <text x=\"{}\" y=\"{}\" fill=\"#57606a\">{:.1} ms</text>",
        y + 10,
        x + width + 8,
        y + 28,
        whole / 1e6
    );
    for part in parts {
        let Some((_, color)) = COLORS.iter().find(|(name, _)| *name == part.span.name) else {
            continue;
        };
        let at = |nanos: u64| (nanos - began) as f64 / whole * f64::from(width);
        let (from, to) = (
            at(part.span.start_time_unix_nano),
            at(part.span.end_time_unix_nano),
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"16\" rx=\"3\" fill=\"{color}\"/>",
            f64::from(x) + from,
            y + 15,
            (to - from).max(2.0)
        );
    }
}

/// Draws a link from one row up to another. `reach` is how far it goes to the left.
fn link(svg: &mut String, from: u32, to: u32, reach: u32, dashes: &str) {
    let (x, y) = (LEFT - 8, |row: u32| TOP + ROW * row + 18);
    let _ = writeln!(
        svg,
        "<path d=\"M{x} {}C{} {} {} {} {x} {}\" fill=\"none\" stroke=\"#57606a\" \
         stroke-dasharray=\"{dashes}\" marker-end=\"url(#tip)\"/>",
        y(from),
        x - reach,
        y(from),
        x - reach,
        y(to) + 6,
        y(to) + 6
    );
}
