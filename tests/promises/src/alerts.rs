//! Prometheus accepts the alerts that are delivered with Redeliver, and each alert fires when it
//! should and is silent when it should be.

use std::path::{Path, PathBuf};
use std::process::Command;

mod outages;

#[test]
fn prometheus_accepts_its_configuration_and_the_alerts() {
    promtool(&["check", "config", "telemetry/prometheus.yml"]);
}

#[test]
fn each_alert_fires_when_it_should_and_is_silent_when_it_should_be() {
    promtool(&["test", "rules", "alerts/redeliver.test.yml"]);
}

/// Returns the folder with what is deployed.
pub(crate) fn deploy() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.unwrap().join("deploy")
}

/// Runs promtool, the tool that comes with Prometheus, in the folder `deploy`.
///
/// # Panics
/// If it reports a fault, or is not installed.
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy())
        .output()
        .expect("promtool is missing: install it with `scripts/tools test`");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
}
