//! `POST /v1/bounces`: one object, an array, or NDJSON of any length.

use axum::extract::{Request, State};
use axum::response::Response;
use domain::bounce::Bounce;
use serde_json::Value;
use store::error::StoreError;

use super::Api;
use super::items::{self, Item};
use super::problem::Problem;
use crate::intake::accept::{Answered, StillSentTo};
use crate::intake::json::Refusal;

/// `POST /v1/bounces`.
pub async fn post(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    items::receive::<Bounce>(&api, request).await
}

impl Item for Bounce {
    const PLURAL: &'static str = "bounces";

    type Answer = Answered;

    fn read(api: &Api, item: Value) -> Result<Self, Refusal> {
        api.reader.read(item, api.store.clock().now())
    }

    fn read_text(api: &Api, text: &[u8]) -> Result<Self, Refusal> {
        api.reader.read_text(text, api.store.clock().now())
    }

    async fn process(
        api: &Api,
        batch: Vec<Self>,
    ) -> Result<(Vec<Answered>, StillSentTo), StoreError> {
        Ok((api.accept.accept(batch).await?, StillSentTo::new()))
    }
}
