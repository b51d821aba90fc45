//! Posting the campaign, as a platform would: one request of NDJSON.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::figures::thousands;

/// How many bounces got which answer.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    counts: BTreeMap<String, usize>,
    /// Why the first refused line was refused.
    refusal: Option<String>,
}

/// Posts the bounces to the API and counts the answers.
pub(crate) async fn post(api: &str, bounces: String) -> Result<Answers> {
    system::tls::prepare();
    let response = reqwest::Client::new()
        .post(format!("{api}/v1/bounces"))
        .header("content-type", "application/x-ndjson")
        .body(bounces)
        .send()
        .await
        .context("the campaign could not be posted")?;
    let status = response.status();
    let text = response.text().await.context("the answers broke off")?;
    if status.is_server_error() {
        bail!("the campaign was answered {status}: {text}");
    }
    let mut answers = Answers::default();
    for line in text.lines() {
        let answer: Value = serde_json::from_str(line).context("an answer is not JSON")?;
        let word = answer["answer"].as_str().unwrap_or("problem").to_owned();
        if answers.refusal.is_none()
            && !matches!(word.as_str(), "scheduled" | "joined" | "duplicate")
        {
            answers.refusal = Some(line.to_owned());
        }
        *answers.counts.entry(word).or_default() += 1;
    }
    Ok(answers)
}

impl Answers {
    fn count(&self, words: &[&str]) -> usize {
        words.iter().filter_map(|word| self.counts.get(*word)).sum()
    }

    /// Bounces that Redeliver answers for from here.
    pub(crate) fn taken_in(&self) -> usize {
        self.count(&["scheduled", "joined", "dropped", "retired"])
    }

    /// Bounces whose message waits in a job.
    pub(crate) fn waiting(&self) -> usize {
        self.count(&["scheduled", "joined"])
    }

    /// All bounces posted.
    pub(crate) fn posted(&self) -> usize {
        self.counts.values().sum()
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self
            .counts
            .iter()
            .map(|(word, n)| format!("{} {word}", thousands(*n as u64)))
            .collect();
        write!(
            f,
            "Posted {} bounces: {}.",
            thousands(self.posted() as u64),
            counts.join(", ")
        )?;
        match &self.refusal {
            Some(line) => write!(f, "\nThe first of the others: {line}"),
            None => Ok(()),
        }
    }
}
