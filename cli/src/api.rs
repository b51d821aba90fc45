//! A client of a scheduler's API, for the operator's commands.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use domain::account::Account;
use domain::address::Address;
use domain::job::JobId;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde_json::Value;

/// How long a request may take, from its start to the end of the answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The command-line options of every command that calls the API.
#[derive(Debug, Args)]
pub(crate) struct Api {
    /// The URL of a scheduler; it is not read from redeliver.toml
    #[arg(long = "api", env = "REDELIVER_API", value_name = "URL", value_parser = read_base)]
    #[arg(default_value = "http://127.0.0.1:8025")]
    base: Url,

    /// The file that contains the token for the API; alternatively, the variable REDELIVER_TOKEN
    /// contains the token itself
    #[arg(long, env = "REDELIVER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Print the API's answer as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// One client for all requests, so that they share connections.
    #[arg(skip)]
    client: OnceLock<Client>,
}

/// One request to the API.
#[derive(Debug)]
pub(crate) struct Call<'c> {
    pub(crate) method: Method,
    /// The segments of the path after `/v1`. They are escaped as needed.
    pub(crate) path: &'c [&'c str],
    pub(crate) query: &'c [(&'c str, String)],
    pub(crate) body: Option<Value>,
}

impl Api {
    /// Sends a request, and returns the JSON of the answer.
    ///
    /// # Errors
    /// If no scheduler answers, or if it rejects the request. The message explains what to do.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Value> {
        let mut request = self.request(call.method, call.path, call.query)?;
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|err| self.no_answer(err))?;
        let status = response.status();
        let answer: Option<Value> = response.json().await.ok();
        match answer {
            Some(answer) if status.is_success() => Ok(answer),
            Some(Value::Object(problem)) if problem["detail"].is_string() => {
                if status == StatusCode::UNAUTHORIZED {
                    bail!(
                        "{}; give the token's file with --token-file, or the token in \
                         REDELIVER_TOKEN",
                        text(&problem["detail"])
                    );
                }
                let field = problem
                    .get("field")
                    .and_then(Value::as_str)
                    .map(|field| format!("{field}: "));
                bail!("{}{}", field.unwrap_or_default(), text(&problem["detail"]))
            }
            _ => bail!(
                "{} answered {status}, but not as a scheduler answers; check the URL in --api",
                self.base
            ),
        }
    }

    /// Posts a body to one of the API's collections. Returns the response. Its body is not read
    /// yet, and its status may be an error.
    ///
    /// # Errors
    /// If no scheduler answers.
    pub(crate) async fn post(
        &self,
        collection: &str,
        query: &[(&str, String)],
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Response> {
        let request = self.request(Method::POST, &[collection], query)?;
        let request = request
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        request.send().await.map_err(|err| self.no_answer(err))
    }

    /// Builds a request to the API. Path and query are escaped as needed.
    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("read_base allows only http URLs")
            .pop_if_empty()
            .push("v1")
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client()?.request(method, url);
        Ok(match self.token()? {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    fn client(&self) -> Result<&Client> {
        if self.client.get().is_none() {
            system::tls::prepare();
            // If two tasks build a client at the same time, the first client is kept.
            let _ = self
                .client
                .set(Client::builder().timeout(ANSWER_MAX).build()?);
        }
        self.client.get().context("the HTTP client was not kept")
    }

    /// Returns the error for a request without an answer. It contains the cause, and what to do.
    fn no_answer(&self, err: reqwest::Error) -> anyhow::Error {
        let err = anyhow::Error::from(err);
        anyhow!(
            "no scheduler answers at {}: {}; start one with `redeliver scheduler`, \
             or give its URL with --api or REDELIVER_API",
            self.base,
            err.root_cause()
        )
    }
}

impl Api {
    /// Returns the token to send, if there is one. No option takes the token itself, because every
    /// user of the machine can see command lines.
    fn token(&self) -> Result<Option<String>> {
        let Some(path) = &self.token_file else {
            return Ok(env::var("REDELIVER_TOKEN")
                .ok()
                .map(|token| token.trim().to_owned()));
        };
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the token from {}", path.display()))?;
        let token = text
            .lines()
            .next()
            .map(str::trim)
            .filter(|token| !token.is_empty());
        Ok(Some(
            token
                .with_context(|| format!("there is no token in {}", path.display()))?
                .to_owned(),
        ))
    }
}

/// Formats a JSON value for people: a string without its quotes, `null` as an empty string, and a
/// whole number without `.0`.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other
            .as_f64()
            .map_or_else(|| other.to_string(), |number| number.to_string()),
    }
}

/// Reads `account/address`, or an address of the default account.
pub(crate) fn read_job(text: &str) -> Result<JobId> {
    JobId::parse(text).or_else(|_| {
        let recipient = Address::parse(text).map_err(|_| {
            anyhow!("\"{text}\" is neither a job (like default/jo@example.com) nor an address")
        })?;
        Ok(JobId {
            account: Account::default(),
            recipient,
        })
    })
}

fn read_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http");
    url.ok_or_else(|| "write it like http://127.0.0.1:8025".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_url_must_start_with_http() {
        assert_eq!(
            read_base("http://127.0.0.1:8025").unwrap().port(),
            Some(8025)
        );
        for text in [
            "",
            "localhost:8025",
            "127.0.0.1:8025",
            "https://mail.example",
            "unix:/socket",
        ] {
            assert!(read_base(text).is_err(), "{text}");
        }
    }
}
