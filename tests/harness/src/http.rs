//! A scheduler on its own port, and a client for it.

use std::time::Duration;

use config::model::Config;
use policy::table::Table;
use reqwest::{Client, RequestBuilder, Response};
use scheduler::serve::Scheduler;
use serde_json::Value;
use store::handle::Store;
use telemetry::spans::Tracing;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::wait::in_time;
use crate::world::World;

/// NDJSON's content type.
pub const NDJSON: &str = "application/x-ndjson";

/// An HTTP client.
pub fn client() -> Client {
    system::tls::prepare();
    Client::new()
}

/// A running scheduler. It stops when this is dropped.
pub struct Http {
    base: String,
    client: Client,
    stop: DropGuard,
    served: JoinHandle<std::io::Result<()>>,
}

impl Http {
    /// Starts a scheduler on the store of `world`, with the default configuration.
    pub async fn serve(world: &World) -> Self {
        Self::serve_with(world, &Config::embedded()).await
    }

    /// Starts a scheduler on the store of `world`, with this configuration.
    pub async fn serve_with(world: &World, config: &Config) -> Self {
        Self::serve_on(&world.store, config).await
    }

    /// Starts a scheduler on this store. It closes its socket as soon as it is stopped.
    pub async fn serve_on(store: &Store, config: &Config) -> Self {
        let mut config = config.clone();
        config.scheduler.drain = Duration::ZERO;
        let scheduler = Scheduler::new(store.clone(), Table::embedded(), &config, &Tracing::off())
            .expect("the config is valid");
        Self::serve_scheduler(scheduler).await
    }

    /// Starts this scheduler on a free port.
    pub async fn serve_scheduler(scheduler: Scheduler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let base = format!(
            "http://{}",
            listener.local_addr().expect("the socket is bound")
        );
        let stop = CancellationToken::new();
        let served = tokio::spawn(scheduler.serve(listener, stop.clone()));
        Self {
            base,
            client: client(),
            stop: stop.drop_guard(),
            served,
        }
    }

    /// Stops the scheduler, and waits until it has ended.
    ///
    /// # Panics
    /// If it ends with an error.
    pub async fn stop(self) {
        drop(self.stop);
        in_time("the scheduler to stop", self.served)
            .await
            .expect("the scheduler does not panic")
            .expect("the scheduler ends without an error");
    }

    /// A GET request.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    /// A POST request.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.base))
    }

    /// A PUT request.
    pub fn put(&self, path: &str) -> RequestBuilder {
        self.client.put(format!("{}{path}", self.base))
    }

    /// A DELETE request.
    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(format!("{}{path}", self.base))
    }

    /// Its URL: `http://127.0.0.1:…`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Posts bounces as one JSON document.
    pub async fn post_json(&self, bounces: &Value) -> Response {
        self.post("/v1/bounces")
            .json(bounces)
            .send()
            .await
            .expect("the scheduler answers")
    }

    /// Posts bounces as NDJSON.
    pub async fn post_lines(&self, lines: impl Into<reqwest::Body>) -> Response {
        let request = self
            .post("/v1/bounces")
            .header("content-type", NDJSON)
            .body(lines);
        request.send().await.expect("the scheduler answers")
    }

    /// Returns the JSON at `path`.
    pub async fn get_json(&self, path: &str) -> Value {
        json(self.get(path).send().await.expect("the scheduler answers")).await
    }
}

/// Returns the JSON of an answer.
pub async fn json(response: Response) -> Value {
    response.json().await.expect("the answer is JSON")
}

/// Returns the JSON of each line of an answer.
pub async fn json_lines(response: Response) -> Vec<Value> {
    let text = response.text().await.expect("the answer is text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

/// Verifies that an answer is a problem document (RFC 9457) with this status, and returns it.
pub async fn problem(response: Response, status: u16) -> Value {
    assert_eq!(response.status(), status);
    let content_type = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    assert_eq!(content_type, Some("application/problem+json"));
    let problem = json(response).await;
    assert_eq!(problem["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "{member} of {problem}");
    }
    problem
}
