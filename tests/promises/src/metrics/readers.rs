//! How far each reader of the events is behind is known while it reads, by the name of its token.

use std::net::SocketAddr;

use config::model::Config;
use domain::account::Accounts;
use harness::bounce::{FULL, bounce};
use harness::http::Http;
use harness::wait::eventually;
use harness::world::{HOUR, World};
use signing::api_token::{Grant, Scope, TokenHash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::of;

/// Events of this many jobs do not fit into the buffers between a scheduler and its reader.
const JOBS: usize = 8_000;

fn grant(name: &str) -> Grant {
    Grant {
        name: name.to_owned(),
        scopes: vec![Scope::Read],
        hash: TokenHash::of(name),
        rate: None,
        accounts: Accounts::All,
        expires: None,
    }
}

/// Asks for all events, with the token of this name. Reads nothing yet.
async fn read_events(http: &Http, token: &str) -> TcpStream {
    let address: SocketAddr = http.base().trim_start_matches("http://").parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!(
        "GET /v1/events?after=start HTTP/1.1\r\nhost: {address}\r\n\
         authorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_reader_that_is_slow_is_behind_and_one_that_has_all_events_is_not() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.access.tokens = ["crm", "bi", "prometheus"].map(grant).into();
    let http = Http::serve_with(&world, &config).await;
    let figures = async |reader: &str| {
        let scrape = http.get("/metrics").bearer_auth("prometheus").send().await;
        let text = scrape.unwrap().text().await.unwrap();
        let figure = |name: &str| of(&text, &format!("{name}{{reader=\"{reader}\"}}"));
        Some((
            figure("redeliver_event_streams")?,
            figure("redeliver_journal_lag_seconds")?,
        ))
    };
    let bounces = (0..JOBS).map(|n| bounce(&format!("user{n}@example.com"), "m1", FULL));
    world.post_bounces(bounces).await;
    world.clock.advance(HOUR);
    assert_eq!(figures("crm").await, None);

    let mut slow = read_events(&http, "crm").await;
    let behind = eventually("the stream", async || {
        figures("crm").await.filter(|(_, lag)| *lag > 0.0)
    })
    .await;
    assert_eq!(behind, (1.0, HOUR.as_secs_f64()));
    let mut quick = read_events(&http, "bi").await;
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while quick.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let has_all = async |reader: &str| (figures(reader).await == Some((1.0, 0.0))).then_some(());
    eventually("the quick reader", async || has_all("bi").await).await;
    world.clock.advance(HOUR);
    let behind = 2.0 * HOUR.as_secs_f64();
    assert_eq!(figures("crm").await, Some((1.0, behind)));
    assert_eq!(figures("bi").await, Some((1.0, 0.0)));

    let mut buffer = vec![0; 1 << 16];
    let read_on = async { while slow.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        () = read_on => panic!("the stream has ended"),
        () = eventually("the slow reader", async || has_all("crm").await) => {}
    }
    drop(slow);
    reading.abort();
    eventually("the end of both streams", async || {
        let open = [figures("crm").await, figures("bi").await];
        (open == [None, None]).then_some(())
    })
    .await;
}
