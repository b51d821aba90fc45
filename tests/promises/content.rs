//! Content at URLs is read from real servers, once for all that have it.

use futures::future::join_all;
use harness::platform::{Platform, Say};
use shared::config::{Config, Content};
use shared::job::ContentRef;
use worker::content::{ContentError, Contents};

#[tokio::test]
async fn content_that_many_share_is_read_once() {
    let server = Platform::start(|_| Say::Answer(200, None, "Subject: hello\n\nbye\n".to_owned())).await;
    let base = format!("http://{}/mail/", server.address);
    let settings = Content { stores: vec![base.parse().unwrap()], ..Config::embedded().content };
    let contents = Contents::from_config(&settings).unwrap();
    let shared = ContentRef::Url(format!("{base}c42.eml"));
    for content in join_all((0..50).map(|_| contents.read(&shared))).await {
        assert_eq!(&content.unwrap()[..], b"Subject: hello\r\n\r\nbye\r\n");
    }
    assert_eq!(server.posted().len(), 1);
    let elsewhere = ContentRef::Url(format!("http://{}/other/c42.eml", server.address));
    assert!(matches!(contents.read(&elsewhere).await, Err(ContentError::Missing(_))));
    assert_eq!(server.posted().len(), 1, "nobody was asked");
}

#[tokio::test]
async fn what_is_not_there_drops_its_message_and_what_cannot_be_had_now_waits() {
    let server = Platform::start(|_| Say::Answer(404, None, String::new())).await;
    let base = format!("http://{}/", server.address);
    let settings = Content { stores: vec![base.parse().unwrap()], ..Config::embedded().content };
    let gone = ContentRef::Url(format!("{base}c42.eml"));
    let contents = Contents::from_config(&settings).unwrap();
    assert!(matches!(contents.read(&gone).await, Err(ContentError::Missing(_))));

    let denied = Platform::start(|_| Say::Answer(403, None, String::new())).await;
    let base = format!("http://{}/", denied.address);
    let settings = Content { stores: vec![base.parse().unwrap()], ..Config::embedded().content };
    let contents = Contents::from_config(&settings).unwrap();
    let denied = ContentRef::Url(format!("{base}c42.eml"));
    assert!(matches!(contents.read(&denied).await, Err(ContentError::Unread(_))), "somebody puts that right");
}
