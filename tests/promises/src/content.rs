//! Content at URLs is read from web servers and object stores, once for all messages that share it.
//! If content is missing, its message is dropped. If it cannot be read for now, its message waits.

use std::net::SocketAddr;
use std::time::Duration;

use config::content::Content;
use config::model::Config;
use domain::event::{DropReason, EventKind};
use domain::job::ContentRef;
use domain::standing::Standing;
use futures::future::join_all;
use harness::bounce::{FULL, bounce};
use harness::objects::Objects;
use harness::platform::{Action, Platform};
use harness::world::World;
use policy::table::Table;
use senders::lease_end::LeaseEnd;
use serde_json::json;
use store::settle::Settled;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use worker::attempt::Attempter;
use worker::content::Contents;
use worker::content::error::ContentError;
use worker::routes::Routes;

/// The key of a service account. It is of no use outside these tests.
const GOOGLE_KEY: &str = include_str!("../fixtures/sns-key.pem");

/// How long content waits for free memory in the test that expects the wait to fail.
const SHORT: Duration = Duration::from_secs(2);

/// A reader of content at URLs below `base`.
fn contents_below(base: &str) -> Contents {
    let settings = Content {
        stores: vec![base.parse().unwrap()],
        ..Config::embedded().content
    };
    Contents::from_config(&settings).unwrap()
}

#[tokio::test]
async fn content_that_many_messages_share_is_read_once() {
    let server =
        Platform::start(|_| Action::Answer(200, None, "Subject: hello\n\nbye\n".to_owned())).await;
    let base = format!("http://{}/mail/", server.address);
    let contents = contents_below(&base);
    let shared = ContentRef::Url(format!("{base}c42.eml"));
    for content in join_all((0..50).map(|_| contents.read(&shared))).await {
        assert_eq!(&content.unwrap()[..], b"Subject: hello\r\n\r\nbye\r\n");
    }
    assert_eq!(server.posted().len(), 1);
    let elsewhere = ContentRef::Url(format!("http://{}/other/c42.eml", server.address));
    assert!(matches!(
        contents.read(&elsewhere).await,
        Err(ContentError::Missing(_))
    ));
    assert_eq!(server.posted().len(), 1, "no server was asked");
}

#[tokio::test]
async fn missing_content_drops_its_message_and_unreadable_content_makes_it_wait() {
    let server = Platform::start(|_| Action::Answer(404, None, String::new())).await;
    let base = format!("http://{}/", server.address);
    let contents = contents_below(&base);
    let gone = ContentRef::Url(format!("{base}c42.eml"));
    assert!(matches!(
        contents.read(&gone).await,
        Err(ContentError::Missing(_))
    ));

    let denied = Platform::start(|_| Action::Answer(403, None, String::new())).await;
    let base = format!("http://{}/", denied.address);
    let contents = contents_below(&base);
    let denied = ContentRef::Url(format!("{base}c42.eml"));
    assert!(
        matches!(contents.read(&denied).await, Err(ContentError::Unread(_))),
        "this can be corrected, so the message waits"
    );
}

/// The environment variables from which each kind of store takes its address and our credentials.
fn variables(kind: &str, address: SocketAddr) -> Vec<(&'static str, String)> {
    let endpoint = format!("http://{address}");
    match kind {
        "s3" => {
            let known = [
                ("AWS_ACCESS_KEY_ID", "redeliver"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_REGION", "eu-1"),
            ];
            let mut all: Vec<_> = known.map(|(name, value)| (name, value.to_owned())).into();
            all.extend([
                ("AWS_ENDPOINT", endpoint),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
            ]);
            all
        }
        "az" => {
            // The key is base64.
            let known = [
                ("AZURE_STORAGE_ACCOUNT_NAME", "redeliver"),
                ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
            ];
            let mut all: Vec<_> = known.map(|(name, value)| (name, value.to_owned())).into();
            all.extend([
                ("AZURE_STORAGE_ENDPOINT", endpoint),
                ("AZURE_ALLOW_HTTP", "true".to_owned()),
            ]);
            all
        }
        _ => {
            let account = json!({
                "type": "service_account", "gcs_base_url": endpoint, "private_key": GOOGLE_KEY,
                "client_email": "redeliver@project.example", "private_key_id": "1",
            });
            vec![("GOOGLE_SERVICE_ACCOUNT_KEY", account.to_string())]
        }
    }
}

fn contents_of(kind: &str, address: SocketAddr) -> Contents {
    let settings = Content {
        stores: vec![format!("{kind}://bucket/mail").parse().unwrap()],
        ..Config::embedded().content
    };
    let variables = variables(kind, address)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    Contents::from_variables(&settings, &variables.collect::<Vec<_>>()).unwrap()
}

#[tokio::test]
async fn an_object_is_read_with_our_signature_and_content_without_an_object_counts_as_missing() {
    for (kind, signature) in [
        ("s3", Some("AWS4-HMAC-SHA256 Credential=redeliver/")),
        ("az", Some("SharedKey redeliver:")),
        // A token that the service account has signed itself. Its header is the first of three
        // parts.
        ("gs", Some("Bearer eyJ")),
    ] {
        let server = Objects::start(
            signature,
            &[("bucket/mail/c42.eml", "Subject: hello\n\nbye\n")],
        )
        .await;
        let contents = contents_of(kind, server.address);
        let read = async |name: &str| {
            contents
                .read(&ContentRef::Url(format!("{kind}://bucket/mail/{name}")))
                .await
        };
        assert_eq!(
            &read("c42.eml").await.unwrap()[..],
            b"Subject: hello\r\n\r\nbye\r\n",
            "{kind}"
        );
        assert!(
            matches!(read("c43.eml").await, Err(ContentError::Missing(_))),
            "{kind}"
        );
        assert_eq!(
            server.asked(),
            ["/bucket/mail/c42.eml", "/bucket/mail/c43.eml"],
            "{kind}"
        );

        let strict = Objects::start(Some("another"), &[("bucket/mail/c42.eml", "")]).await;
        let denied = contents_of(kind, strict.address)
            .read(&ContentRef::Url(format!("{kind}://bucket/mail/c42.eml")))
            .await;
        assert!(
            matches!(denied, Err(ContentError::Unread(_))),
            "{kind}: this can be corrected, so the message waits"
        );
    }
}

#[tokio::test]
async fn a_redirect_of_a_content_server_is_not_followed() {
    let elsewhere =
        Platform::start(|_| Action::Answer(200, None, "Subject: secret\n\n".to_owned())).await;
    let there = format!("http://{}/secret", elsewhere.address);
    let there: &'static str = Box::leak(there.into_boxed_str());
    for status in [301, 302, 303, 307, 308] {
        let open = Platform::start(move |_| {
            Action::Answer(status, Some(("location", there)), String::new())
        })
        .await;
        let base = format!("http://{}/mail/", open.address);
        let web = (
            contents_below(&base),
            ContentRef::Url(format!("{base}c42.eml")),
        );
        let bucket = (
            contents_of("s3", open.address),
            ContentRef::Url("s3://bucket/mail/c42.eml".to_owned()),
        );
        for (contents, content) in [web, bucket] {
            let read = contents.read(&content).await;
            assert!(
                matches!(read, Err(ContentError::Unread(_))),
                "{status}: {read:?}"
            );
        }
        assert_eq!(open.posted().len(), 2, "{status}: each server was asked");
    }
    assert_eq!(elsewhere.posted().len(), 0, "no redirect was followed");
}

#[tokio::test]
async fn missing_content_drops_its_message_and_does_not_count_against_the_address() {
    let server = Objects::start(None, &[("bucket/mail/m2.eml", "Subject: hello\n\nbye\n")]).await;
    let world = World::new().await;
    for message in ["m1", "m2"] {
        let mut mail = bounce("jo@example.com", message, FULL);
        mail["content"] = json!({"url": format!("s3://bucket/mail/{message}.eml")});
        world.post_bounce(mail).await;
    }
    world
        .clock
        .set(world.job("jo@example.com").await.due.unwrap());
    let routes = Routes::new("default").with("default", world.mail.clone());
    let contents = contents_of("s3", server.address);
    let attempter = Attempter::new(
        routes,
        contents,
        Table::embedded(),
        world.store.clock().clone(),
    );
    let settlement = attempter
        .attempt(
            world.claim_one().await,
            &CancellationToken::new(),
            &LeaseEnd::default(),
        )
        .await
        .unwrap()
        .settlement;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    let missing = Some(DropReason::ContentMissing.as_str().to_owned());
    assert_eq!(
        world.final_events().await,
        [
            (EventKind::MessageDropped, "m1".to_owned(), missing),
            (EventKind::MessageDelivered, "m2".to_owned(), None)
        ]
    );
    assert_eq!(world.mail.messages(), ["m2"]);
    assert_eq!(world.standing("jo@example.com").await, Standing::Active);
    assert!(
        world.standing_record("jo@example.com").await.is_none(),
        "the address is not affected"
    );
}

#[tokio::test]
async fn the_content_of_all_attempts_together_is_bounded_and_an_attempt_beyond_that_waits() {
    const KIB: usize = 1 << 10;
    let folder = TempDir::new().unwrap();
    let paths: Vec<String> = (0..8)
        .map(|n| {
            let path = folder.path().join(format!("{n}.eml"));
            std::fs::write(&path, format!("Subject: {n}\r\n").repeat(30 * KIB / 12)).unwrap();
            path.display().to_string()
        })
        .collect();
    let roots = vec![folder.path().to_path_buf()];
    let settings = Content {
        roots,
        max: 32 * KIB,
        cache: 0,
        memory: 256 * KIB,
        timeout: SHORT,
        ..Config::embedded().content
    };
    let contents = Contents::from_config(&settings).unwrap();
    let read = async |path: &String| contents.read(&ContentRef::File(path.clone())).await;
    let mut held = Vec::new();
    let left_out = loop {
        let path = &paths[held.len()];
        match read(path).await {
            Ok(content) => held.push(content),
            Err(ContentError::Unread(_)) => break path,
            Err(err) => panic!("{err}"),
        }
    };
    let bytes: usize = held.iter().map(bytes::Bytes::len).sum();
    assert!(
        bytes > settings.memory / 2 && bytes <= settings.memory,
        "{bytes} bytes at once"
    );
    held.pop();
    assert!(read(left_out).await.is_ok(), "there is room again");
}
