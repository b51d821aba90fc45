//! A real Prometheus that scrapes processes of a test, and evaluates rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::client;
use crate::port::free_port;

/// How often it evaluates the rules.
const EVALUATION_INTERVAL: &str = "1s";

/// A Prometheus. It is killed when this is dropped.
pub struct Prometheus {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one with the rules of a file. It scrapes these targets again and again: each is the
    /// name of a job and an address like `127.0.0.1:8025`. `interval` is the pause between two
    /// scrapes, for example `200ms`.
    ///
    /// # Panics
    /// If it is not installed.
    pub fn start(targets: &[(&str, &str)], rules: &Path, interval: &str) -> Self {
        let folder = TempDir::with_prefix("redeliver-prometheus-").expect("a folder can be made");
        let (file, data) = (folder.path().join("p.yml"), folder.path().join("data"));
        let jobs = targets.iter().map(|(job, target)| {
            let targets = json!([{ "targets": [target] }]);
            json!({ "job_name": job, "static_configs": targets })
        });
        // JSON is YAML too.
        let config = json!({
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": EVALUATION_INTERVAL,
            },
            "rule_files": [rules],
            "scrape_configs": jobs.collect::<Vec<_>>(),
        });
        fs::write(&file, config.to_string()).expect("the folder can be written to");
        let listen = format!("127.0.0.1:{}", free_port());
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={listen}"))
            .arg("--enable-feature=exemplar-storage")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is missing: install it with `scripts/tools test`");
        Self {
            child,
            url: format!("http://{listen}"),
            _folder: folder,
        }
    }

    /// Returns the series that a query has for an answer. `None` if Prometheus is not ready yet.
    ///
    /// # Panics
    /// If the query is not valid.
    pub async fn query(&self, query: &str) -> Option<Vec<Value>> {
        let base = format!("{}/api/v1/query", self.url);
        let url = Url::parse_with_params(&base, [("query", query)]).expect("it is a URL");
        let answer: Value = client().get(url).send().await.ok()?.json().await.ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned()
    }

    /// Returns the trace ids of the exemplars that it keeps of these series. `None` if Prometheus
    /// is not ready yet.
    ///
    /// # Panics
    /// If the query is not valid.
    pub async fn exemplars(&self, query: &str) -> Option<BTreeSet<String>> {
        let base = format!("{}/api/v1/query_exemplars", self.url);
        let range = [("query", query), ("start", "0"), ("end", "9999999999")];
        let url = Url::parse_with_params(&base, range).expect("it is a URL");
        let answer: Value = client().get(url).send().await.ok()?.json().await.ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"].as_array()?.iter();
        let exemplars = series
            .filter_map(|series| series["exemplars"].as_array())
            .flatten();
        let ids = exemplars.filter_map(|exemplar| exemplar["labels"]["trace_id"].as_str());
        Some(ids.map(str::to_owned).collect())
    }

    /// Returns the names of the alerts in this state, `firing` or `pending`. `None` if Prometheus
    /// is not ready yet.
    pub async fn alerts(&self, state: &str) -> Option<BTreeSet<String>> {
        let url = format!("{}/api/v1/alerts", self.url);
        let answer: Value = client().get(url).send().await.ok()?.json().await.ok()?;
        let alerts = answer["data"]["alerts"].as_array()?;
        let names = alerts.iter().filter(|alert| alert["state"] == state);
        let names = names.filter_map(|alert| alert["labels"]["alertname"].as_str());
        Some(names.map(str::to_owned).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
