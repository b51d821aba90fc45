//! The way to a scheduler's API, for the operator's commands.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use reqwest::{Client, Method, Url};
use serde_json::Value;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Where the scheduler is, and how its answer is shown.
#[derive(Debug, Args)]
pub(crate) struct Api {
    /// Where a scheduler listens
    #[arg(long = "api", env = "REDELIVER_API", value_name = "URL", value_parser = read_base)]
    #[arg(default_value = "http://127.0.0.1:8025")]
    base: Url,

    /// Print what the API answers, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call<'c> {
    pub(crate) method: Method,
    /// What the path consists of; escaped as needed.
    pub(crate) path: &'c [&'c str],
    pub(crate) query: &'c [(&'c str, String)],
    pub(crate) body: Option<Value>,
}

impl Api {
    /// Makes a call, and tells the answer.
    ///
    /// # Errors
    /// Where nobody answers, or the answer is no; the text says what to do.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Value> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("it was read as http").pop_if_empty().push("v1").extend(call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        shared::tls::prepare();
        let mut request = Client::builder().timeout(ANSWER_MAX).build()?.request(call.method, url);
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|err| {
            let err = anyhow::Error::from(err);
            anyhow!(
                "no scheduler answers at {}: {}; start one with `redeliver scheduler`, or say where it is with --api or \
                 REDELIVER_API",
                self.base,
                err.root_cause()
            )
        })?;
        let status = response.status();
        let answer: Option<Value> = response.json().await.ok();
        match answer {
            Some(answer) if status.is_success() => Ok(answer),
            Some(Value::Object(problem)) if problem["detail"].is_string() => {
                let field = problem.get("field").and_then(Value::as_str).map(|field| format!("{field}: "));
                bail!("{}{}", field.unwrap_or_default(), text(&problem["detail"]))
            }
            _ => bail!("{} answers {status}, and not as a scheduler does; is --api the right one?", self.base),
        }
    }
}

/// A value as people read it: text without its quotes, and nothing where there is nothing.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.as_f64().map_or_else(|| other.to_string(), |number| number.to_string()),
    }
}

fn read_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http");
    url.ok_or_else(|| "write it like http://127.0.0.1:8025".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_url_with_its_scheme() {
        assert_eq!(read_base("http://127.0.0.1:8025").unwrap().port(), Some(8025));
        for text in ["", "localhost:8025", "127.0.0.1:8025", "https://mail.example", "unix:/socket"] {
            assert!(read_base(text).is_err(), "{text}");
        }
    }
}
