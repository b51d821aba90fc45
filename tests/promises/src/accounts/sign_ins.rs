//! Failed sign-ins, and making tokens.

use super::*;

/// How many failed sign-ins of each kind there are.
const TIMES: usize = 20;

#[tokio::test]
async fn failed_sign_ins_are_counted_and_logged_once_a_minute_without_the_token() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let old = Grant {
        expires: Some(Timestamp::from_ms(0)),
        ..grant("old", "")
    };
    let lines = [old, grant("acme", "acme"), grant("ops", "")].map(|grant| grant.to_string());
    fs::write(&tokens, lines.join("\n")).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{}\"\nprefix = \"{}\"\nshards = {}\n[scheduler]\n\
             listen = \"{address}\"\n[access]\ntokens_file = \"{}\"\n",
            redis::url(),
            world.prefix,
            world.store.shards(),
            tokens.display()
        ),
    );
    let url = |path: &str| format!("http://{address}{path}");
    eventually("the scheduler", async || {
        let ready = client().get(url("/readyz")).send().await.ok()?;
        (ready.status() == 200).then_some(())
    })
    .await;
    for token in ["", "rdt_unknown", "old"] {
        for _ in 0..TIMES {
            let request = client().get(url("/v1/quarantine"));
            let request = match token {
                "" => request,
                token => request.bearer_auth(token),
            };
            problem(request.send().await.unwrap(), 401).await;
        }
    }
    let metrics = client()
        .get(url("/metrics"))
        .bearer_auth("ops")
        .send()
        .await;
    let metrics = metrics.unwrap().text().await.unwrap();
    let count = format!("redeliver_failed_sign_ins_total {}", 3 * TIMES);
    assert!(metrics.contains(&count), "{count}");
    let log = scheduler.log();
    let failed: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("a sign-in failed"))
        .collect();
    assert_eq!(failed.len(), 3, "one line for each kind: {log}");
    for (line, kind) in failed
        .iter()
        .zip(["no token", "unknown token", "expired token"])
    {
        assert!(line.contains(kind) && line.contains("127.0.0.1"), "{line}");
    }
    assert!(
        failed[2].contains("old"),
        "the name of a known token: {log}"
    );
    assert!(!log.contains("rdt_unknown"), "the log has no token: {log}");

    let suppress = url(&format!("/v1/addresses/{JO}/suppress?account=acme"));
    let answer = client().post(suppress).bearer_auth("acme").send().await;
    assert_eq!(answer.unwrap().status(), 200);
    let log = eventually("the line of the command", async || {
        Some(scheduler.log()).filter(|log| log.contains("an operator changed"))
    })
    .await;
    let line = log
        .lines()
        .find(|line| line.contains("an operator changed"))
        .unwrap();
    assert!(line.contains("acme") && line.contains("suppress"), "{line}");
    assert!(!log.contains(JO), "the log has no address: {log}");
    assert!(scheduler.terminate().await.success());
}

#[tokio::test]
async fn a_new_token_is_for_the_given_accounts_and_time_and_a_wider_one_is_pointed_out() {
    let new = async |arguments: &[&str]| {
        let fixed = ["token", "new", "--name", "acme", "--scopes", "read"];
        let output = process::run(&[&fixed[..], arguments].concat()).await;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (is_made, printed, told) = new(&["--accounts", "acme,beta", "--expires", "90d"]).await;
    assert!(
        is_made && !told.contains("ALL") && !told.contains("NEVER"),
        "{told}"
    );
    assert!(told.contains("the accounts acme, beta only") && told.contains("expires at"));
    let grant = Grant::parse(printed.lines().nth(1).unwrap()).unwrap();
    assert_eq!(grant.accounts, Accounts::parse_list("acme,beta").unwrap());
    let in_days = |days: u32| SystemClock.now().plus(days * DAY);
    let expires = grant.expires.unwrap();
    assert!(in_days(89) < expires && expires <= in_days(90), "{expires}");

    let (is_made, printed, told) = new(&[]).await;
    assert!(
        is_made && told.contains("ALL accounts") && told.contains("NEVER expires"),
        "{told}"
    );
    let grant = Grant::parse(printed.lines().nth(1).unwrap()).unwrap();
    assert_eq!((grant.accounts, grant.expires), (Accounts::All, None));

    for wrong in [
        ["--accounts", ""],
        ["--accounts", "a/b"],
        ["--expires", "soon"],
        ["--expires", "2020-01-01T00:00:00Z"],
    ] {
        let (is_made, printed, told) = new(&wrong).await;
        assert!(
            !is_made && printed.is_empty() && told.contains(wrong[0]),
            "{wrong:?}: {told}"
        );
    }
}
