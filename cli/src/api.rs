//! A client of a scheduler's API, for the operator's commands.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use config::cli::read_api;
use domain::account::Account;
use domain::address::Address;
use domain::job::JobId;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde_json::Value;

mod address;
mod certificates;

use address::SchedulerAddress;
use certificates::Certificates;

/// How long a request may take, from its start to the end of the answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The command-line options of every command that calls the API.
#[derive(Debug, Args)]
pub(crate) struct Api {
    /// The URL of a scheduler, http:// or https:// [default: cli.api of the configuration, or
    /// scheduler.listen there]
    #[arg(long = "api", env = "REDELIVER_API", value_name = "URL", value_parser = read_api)]
    base: Option<Url>,

    #[command(flatten)]
    certificates: Certificates,

    /// The file that contains the token for the API; alternatively, the variable REDELIVER_TOKEN
    /// contains the token itself
    #[arg(long, env = "REDELIVER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Print the API's answer as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// The configuration file.
    #[arg(from_global)]
    config: Option<PathBuf>,

    /// One client for all requests, so that they share connections.
    #[arg(skip)]
    client: OnceLock<Client>,

    /// The scheduler's address, once it is known.
    #[arg(skip)]
    address: OnceLock<SchedulerAddress>,
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
        let response = self.send(request).await?;
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
                "{} answered {status}, but not as a scheduler answers; check that URL",
                self.origin()
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
        self.send(request).await
    }

    /// Returns the scheduler's URL and its source (option, variable, key), for messages.
    pub(crate) fn origin(&self) -> String {
        self.address
            .get()
            .map_or_else(|| "a scheduler".to_owned(), ToString::to_string)
    }

    /// Builds a request to the API. Path and query are escaped as needed.
    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<RequestBuilder> {
        let mut url = self.address()?.url.clone();
        url.path_segments_mut()
            .expect("only http and https URLs are read, which have a path")
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

    fn address(&self) -> Result<&SchedulerAddress> {
        if self.address.get().is_none() {
            let found = SchedulerAddress::find(self.base.as_ref(), self.config.as_deref())?;
            // If two tasks look for it at the same time, the first address is kept.
            let _ = self.address.set(found);
        }
        self.address
            .get()
            .context("the scheduler's address was not kept")
    }

    fn client(&self) -> Result<&Client> {
        if self.client.get().is_none() {
            system::tls::prepare();
            let builder = Client::builder().timeout(ANSWER_MAX);
            let configured = &self.address()?.certificates;
            let client = self.certificates.or(configured).apply_to(builder)?.build();
            // If two tasks build a client at the same time, the first client is kept.
            let _ = self.client.set(client.context("cannot use TLS")?);
        }
        self.client.get().context("the HTTP client was not kept")
    }

    /// Sends a request. An error contains its cause, and what to do.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|err| {
            let is_timeout = err.is_timeout();
            let err = anyhow::Error::from(err);
            let cause = match is_timeout {
                true => format!("there was no answer within {} s", ANSWER_MAX.as_secs()),
                false => err.root_cause().to_string(),
            };
            let advice = certificates::advice(&cause).unwrap_or(
                "start one with `redeliver scheduler`, \
                 or give its URL with --api or REDELIVER_API",
            );
            anyhow!(
                "no scheduler answers at {}: {cause}; {advice}",
                self.origin()
            )
        })
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
