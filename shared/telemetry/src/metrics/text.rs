//! The two text formats of metrics: OpenMetrics, which the library writes, and the classic one of
//! Prometheus, which is made from it. A request names the one it wants in `Accept`.

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus. It has no exemplars.
    Classic,
}

impl TextFormat {
    /// Returns the format for a request with this header `Accept`. OpenMetrics has to be asked for.
    pub fn for_accept(accept: &str) -> Self {
        let accepts = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts
                .next()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            is_named && !parts.any(is_zero_weight)
        });
        if accepts {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// Returns the value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Whether this parameter of a media range excludes it (RFC 9110, section 12.4.2).
fn is_zero_weight(parameter: &str) -> bool {
    parameter
        .split_once('=')
        .is_some_and(|(name, value)| name == "q" && value.parse() == Ok(0.0))
}

/// Returns the same metrics in the classic format. It has no units, no exemplars and no end mark,
/// and the names of counters have their `_total` everywhere.
pub(super) fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            let kind = lines
                .next_if(|next| next.starts_with("# TYPE "))
                .and_then(|next| next.rsplit(' ').next())
                .unwrap_or("untyped");
            let total = if kind == "counter" { "_total" } else { "" };
            text += &format!("# HELP {name}{total} {help}\n# TYPE {name}{total} {kind}\n");
            continue;
        }
        // No label has a value with a space.
        text += line.split(" # ").next().unwrap_or(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_format_has_no_exemplars_and_the_whole_names_of_counters() {
        let open_metrics = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n\
             # UNIT a_seconds seconds\na_seconds_sum 1.5\na_seconds_count 2\n\
             a_seconds_bucket{le=\"+Inf\"} 2 # {trace_id=\"0af7\"} 1.0 1.5\n\
             # HELP b Things.\n# TYPE b counter\nb_total{x=\"y\"} 3 # {trace_id=\"0af7\"} 1.0\n\
             # HELP c Size.\n# TYPE c gauge\nc 4\n# EOF\n";
        let expected = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n\
             a_seconds_sum 1.5\na_seconds_count 2\na_seconds_bucket{le=\"+Inf\"} 2\n\
             # HELP b_total Things.\n# TYPE b_total counter\nb_total{x=\"y\"} 3\n\
             # HELP c Size.\n# TYPE c gauge\nc 4\n";
        assert_eq!(classic(open_metrics), expected);
    }

    #[test]
    fn open_metrics_is_sent_only_to_those_who_ask_for_it() {
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "text/plain, Application/OpenMetrics-Text; q=0.5",
        ] {
            assert_eq!(TextFormat::for_accept(accept), TextFormat::OpenMetrics);
        }
        for accept in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "application/openmetrics-text;q=0",
            "text/html, application/json",
        ] {
            assert_eq!(TextFormat::for_accept(accept), TextFormat::Classic);
        }
    }
}
