//! Posts the campaign as a platform would: as one NDJSON request.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::figures::thousands;

/// The number of bounces for each kind of answer.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    counts: BTreeMap<String, usize>,
    /// The first answer other than `scheduled`, `joined` and `duplicate`.
    first_other: Option<String>,
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
        .context("cannot post the campaign")?;
    let status = response.status();
    let text = response
        .text()
        .await
        .context("the answers to the campaign are incomplete")?;
    if status.is_server_error() {
        bail!("the scheduler answered {status} to the campaign: {text}");
    }
    let mut answers = Answers::default();
    for line in text.lines() {
        let answer: Value =
            serde_json::from_str(line).context("an answer to the campaign is not JSON")?;
        let word = answer["answer"].as_str().unwrap_or("problem").to_owned();
        if answers.first_other.is_none()
            && !matches!(word.as_str(), "scheduled" | "joined" | "duplicate")
        {
            answers.first_other = Some(line.to_owned());
        }
        *answers.counts.entry(word).or_default() += 1;
    }
    Ok(answers)
}

impl Answers {
    fn count(&self, words: &[&str]) -> usize {
        words.iter().filter_map(|word| self.counts.get(*word)).sum()
    }

    /// Returns how many bounces Redeliver has accepted and is responsible for.
    pub(crate) fn accepted(&self) -> usize {
        self.count(&["scheduled", "joined", "dropped", "retired"])
    }

    /// Returns how many bounces have a message that waits in a job.
    pub(crate) fn waiting(&self) -> usize {
        self.count(&["scheduled", "joined"])
    }

    /// Returns how many bounces were posted.
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
        match &self.first_other {
            Some(line) => write!(f, "\nThe first of the other answers: {line}"),
            None => Ok(()),
        }
    }
}
