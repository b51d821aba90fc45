//! A request that is one JSON document: an object, or an array of bounded length.

use std::fmt;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;

use super::{Item, NDJSON, Tally, answer_batch, check_account, collect};
use crate::access::caller::Caller;
use crate::api::Api;
use crate::api::problem::Problem;
use crate::intake::accept::StillSentTo;
use crate::intake::foreign_json::{items, without_mark};
use crate::intake::json::Refusal;
use crate::intake::json::unique::Parsed;

/// The document of a request.
enum Document {
    One(Result<Value, Refusal>),
    Many(Vec<Result<Value, Refusal>>),
}

/// Processes the items of a document.
pub(super) async fn receive<I: Item>(
    api: &Api,
    caller: &Caller,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = collect(api, body).await?;
    let document = Document::read(&bytes, api.limits.items, I::PLURAL)?;
    drop(bytes);
    let mut tally = Tally::default();
    let mut answers = Vec::new();
    let mut still_sent_to = StillSentTo::new();
    match document {
        Document::Many(items) => {
            let mut items = items.into_iter().map(|item| I::read(api, item?)).peekable();
            answers.push(b'[');
            while items.peek().is_some() {
                let batch = items.by_ref().take(api.limits.batch).collect();
                let end_answer = |answers: &mut Vec<u8>| answers.push(b',');
                let (batch_tally, batch_still_sent_to) =
                    answer_batch(api, caller, batch, end_answer, &mut answers).await?;
                tally.add(batch_tally);
                still_sent_to.extend(batch_still_sent_to);
            }
            // An array has at least one item, and there is a comma after each answer.
            answers.pop();
            answers.push(b']');
        }
        Document::One(item) => {
            let item = item.and_then(|item| I::read(api, item));
            let item = item.map_err(|refusal| Problem::refused(&refusal))?;
            let item = check_account::<I>(caller, item)
                .map_err(|refusal| Problem::item_of_wrong_account(&refusal))?;
            (tally, still_sent_to) =
                answer_batch(api, caller, vec![Ok(item)], |_| {}, &mut answers).await?;
        }
    }
    api.accept.wait_for_workers(still_sent_to).await?;
    Ok((
        tally.status(),
        [(header::CONTENT_TYPE, "application/json")],
        answers,
    )
        .into_response())
}

impl Document {
    /// Reads a document of at most `items_max` items. The bound is checked while reading, because
    /// small items take many times their size in memory.
    fn read(bytes: &[u8], items_max: usize, plural: &str) -> Result<Self, Problem> {
        let bytes = without_mark(bytes);
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        let read = if first == Some(&b'[') {
            Items { max: items_max }
                .deserialize(&mut reader)
                .map(|items| Self::Many(items.into_iter().map(Parsed::unique).collect()))
        } else {
            Parsed::deserialize(&mut reader).map(|item| Self::One(item.unique()))
        };
        let read = read.and_then(|document| reader.end().map(|()| document));
        let read = read.or_else(|err| Self::read_apart(bytes, items_max).ok_or(err));
        match read {
            Ok(Self::Many(items)) if items.is_empty() => Err(Problem::bad_request(format!(
                "the array contains no {plural}"
            ))),
            Ok(Self::Many(items)) if items.len() > items_max => Err(Problem::too_large(format!(
                "the array has more than {items_max} {plural}; send that many as {NDJSON}"
            ))),
            Ok(document) => Ok(document),
            Err(err) => Err(Problem::bad_request(format!(
                "the body is not JSON: {err}; for NDJSON the content type is {NDJSON}"
            ))),
        }
    }

    /// Reads a document that is not JSON as a whole, item by item. Returns `None` if no item can be
    /// read.
    fn read_apart(bytes: &[u8], items_max: usize) -> Option<Self> {
        match items(bytes, items_max) {
            Some(texts) => {
                let items: Vec<_> = texts.into_iter().map(Parsed::read).collect();
                items.iter().any(Result::is_ok).then_some(Self::Many(items))
            }
            None => Some(Self::One(Ok(Parsed::read(bytes).ok()?))),
        }
    }
}

/// Reads an array. Keeps at most one item more than `max`, which shows that there are too many, and
/// skips the rest.
struct Items {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Items {
    type Value = Vec<Parsed>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Parsed>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<Parsed>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Parsed>, A::Error> {
        let mut items = Vec::new();
        while items.len() <= self.max {
            match sequence.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(items),
            }
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}
