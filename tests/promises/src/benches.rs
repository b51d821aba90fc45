//! With `--json` the benchmarks print their figures for programs: a line of JSON for each mode,
//! with a figure for each measurement.

use harness::process::run;
use serde_json::Value;

/// The modes that need no Postfix and do not take minutes.
const MODES: [&str; 9] = [
    "ingest",
    "ingest-spread",
    "cycle",
    "cycle-zipf",
    "retry",
    "memory",
    "backlog",
    "raw",
    "classify",
];

#[tokio::test]
async fn each_benchmark_mode_prints_its_figures_as_a_line_of_json() {
    let sizes = ["--jobs", "500", "--backlog", "500", "--runs", "1", "--json"];
    let output = run(&[&["bench"], MODES.as_slice(), sizes.as_slice()].concat()).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines
            .iter()
            .map(|line| line["mode"].as_str().unwrap())
            .collect::<Vec<_>>(),
        MODES
    );
    for line in &lines {
        assert!(
            line["machine"].as_str().unwrap().contains("cores"),
            "{line}"
        );
        let figures = line["figures"].as_object().unwrap();
        assert!(!figures.is_empty(), "{line}");
        for (name, figure) in figures {
            let [least, median, most] =
                ["min", "median", "max"].map(|key| figure[key].as_f64().unwrap());
            assert!(
                0.0 < least && least <= median && median <= most,
                "{name} of {line}"
            );
        }
    }
}

#[tokio::test]
async fn all_other_mail_is_delivered_while_some_destinations_hang() {
    let size = [
        "--destinations",
        "40",
        "--hanging",
        "12",
        "--rate",
        "20",
        "--warm-up",
        "6",
        "--measured",
        "4",
    ];
    let output = run(&[
        &["bench", "stall", "--permits", "8", "--runs", "1", "--json"],
        size.as_slice(),
    ]
    .concat())
    .await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let most = |figure: &str| {
        line["figures"][format!("8 permits: {figure}")]["max"]
            .as_f64()
            .unwrap()
    };
    assert_eq!(most("never claimed"), 0.0, "{line}");
    assert!(most("warm, ms late, p50") < 5_000.0, "{line}");
}
