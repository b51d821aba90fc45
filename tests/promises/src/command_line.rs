//! The operator's commands find their scheduler and reach it over TLS. The configuration can be
//! checked and printed, and the commands describe themselves to shells and to `man`.

use std::fs;
use std::path::Path;
use std::process::Output;

use harness::bounce::{FULL, bounce};
use harness::certificates::Certificates;
use harness::http::Http;
use harness::port::free_port;
use harness::process::run_in;
use harness::world::World;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const JO: &str = "jo@example.com";

const SHOW: [&str; 4] = ["addresses", "show", JO, "--json"];

/// Accepts TLS and passes what it contains to a scheduler. Returns the port.
async fn tls_in_front_of(http: &Http, acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = http.base().trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                if let Ok(mut client) = acceptor.accept(client).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Whether a command showed the standing of an address.
fn shows_address(output: &Output) -> bool {
    let shown: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    shown.is_some_and(|shown| shown["standing"] == "active")
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn commands_speak_https_with_an_authority_and_a_certificate_of_their_own() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let folder = TempDir::new().unwrap();
    let files = Certificates::make(folder.path());
    let (ca, cert, key) = (
        path(&files.authority),
        path(&files.certificate),
        path(&files.key),
    );
    let open = tls_in_front_of(&http, files.acceptor()).await;
    let known = tls_in_front_of(&http, files.acceptor_for_known_clients()).await;
    let [open, known] = [open, known].map(|port| format!("https://127.0.0.1:{port}"));
    let run = async |options: &[&str]| {
        run_in(folder.path(), &[], &[&SHOW as &[&str], options].concat()).await
    };

    let untrusted = run(&["--api", &open]).await;
    assert!(
        stderr(&untrusted).contains("give the authority's certificate with --ca"),
        "{}",
        stderr(&untrusted)
    );
    assert!(shows_address(&run(&["--api", &open, "--ca", ca]).await));
    let no_certificate = run(&["--api", &known, "--ca", ca]).await;
    assert!(
        stderr(&no_certificate).contains("--cert and --key"),
        "{}",
        stderr(&no_certificate)
    );
    let with_certificate = ["--api", &known, "--ca", ca, "--cert", cert, "--key", key];
    assert!(shows_address(&run(&with_certificate).await));
    let half = run(&["--api", &known, "--ca", ca, "--cert", cert]).await;
    assert!(
        stderr(&half).contains("--cert needs --key"),
        "{}",
        stderr(&half)
    );
    let wrong = run(&["--api", &known, "--ca", key]).await;
    assert!(
        stderr(&wrong).contains("has no certificate in PEM form"),
        "{}",
        stderr(&wrong)
    );
    let cleartext = http.base().replace("http://", "https://");
    let cleartext = run(&["--api", &cleartext, "--ca", ca]).await;
    assert!(
        stderr(&cleartext).contains("use http:// in the URL"),
        "{}",
        stderr(&cleartext)
    );

    // The configuration can name all of it, relative to its own folder.
    let config = format!(
        "[cli]\napi = \"{known}\"\nca_file = \"ca.pem\"\ncert_file = \"own.pem\"\n\
         key_file = \"own.key\"\n"
    );
    let other = TempDir::new().unwrap();
    let file = folder.path().join("redeliver.toml");
    fs::write(&file, config).unwrap();
    let options = [&["--config", path(&file)], &SHOW as &[&str]].concat();
    assert!(shows_address(&run_in(other.path(), &[], &options).await));

    let submitted = folder.path().join("bounces");
    fs::write(&submitted, format!("{}\n", bounce(JO, "m1", FULL))).unwrap();
    let submit = run_in(folder.path(), &[], &["submit", path(&submitted)]).await;
    assert_eq!(stdout(&submit), "1 bounce: 1 scheduled.\n");
}

#[tokio::test]
async fn commands_find_the_scheduler_in_the_configuration_unless_they_are_given_its_address() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let folder = TempDir::new().unwrap();
    let nowhere = format!("127.0.0.1:{}", free_port());
    let listen = http.base().trim_start_matches("http://");
    let write = |config: &str| fs::write(folder.path().join("redeliver.toml"), config).unwrap();
    let run = async |environment: &[(&str, &str)], options: &[&str]| {
        run_in(
            folder.path(),
            environment,
            &[&SHOW as &[&str], options].concat(),
        )
        .await
    };

    // A part of the file that concerns the scheduler alone may have faults.
    write(&format!(
        "[scheduler]\nlisten = \"{listen}\"\n[redis]\npassword_file = \"/nowhere\"\n"
    ));
    assert!(shows_address(&run(&[], &[]).await));
    write(&format!("[scheduler]\nlisten = \"{nowhere}\"\n"));
    let output = run(&[], &[]).await;
    assert!(
        stderr(&output).contains(&format!(
            "no scheduler answers at http://{nowhere}/ (from scheduler.listen in redeliver.toml)"
        )),
        "{}",
        stderr(&output)
    );
    assert!(shows_address(&run(&[], &["--api", http.base()]).await));
    assert!(shows_address(
        &run(&[("REDELIVER_API", http.base())], &[]).await
    ));
    let in_config = ("REDELIVER_SCHEDULER__LISTEN", listen);
    assert!(shows_address(&run(&[in_config], &[]).await));
    write(&format!("[cli]\napi = \"{}\"\n", http.base()));
    assert!(shows_address(&run(&[], &[]).await));

    let wrong = format!("http://{nowhere}");
    for (environment, options, from) in [
        (
            &[] as &[(&str, &str)],
            &["--api", &wrong] as &[&str],
            "--api",
        ),
        (&[("REDELIVER_API", &wrong)], &[], "REDELIVER_API"),
        (&[("REDELIVER_CLI__API", &wrong)], &[], "REDELIVER_CLI__API"),
    ] {
        let output = run(environment, options).await;
        assert!(
            stderr(&output).contains(&format!("{wrong}/ (from {from})")),
            "{}",
            stderr(&output)
        );
    }
    let named = [("REDELIVER_CONFIG", "/nowhere/redeliver.toml")];
    let output = run(&named, &[]).await;
    assert!(
        stderr(&output).contains("/nowhere/redeliver.toml")
            && stderr(&output).contains("give its URL with --api"),
        "{}",
        stderr(&output)
    );
    assert!(shows_address(&run(&named, &["--api", http.base()]).await));
}

#[tokio::test]
async fn config_check_reports_all_faults_of_all_files() {
    let folder = TempDir::new().unwrap();
    let check = async |config: &str, environment: &[(&str, &str)], options: &[&str]| {
        fs::write(folder.path().join("redeliver.toml"), config).unwrap();
        let words = [&["config", "check"] as &[&str], options].concat();
        run_in(folder.path(), environment, &words).await
    };
    let good = check("[redis]\nshards = 4\n", &[], &[]).await;
    assert_eq!((good.status.code(), &good.stdout[..]), (Some(0), &b""[..]));
    assert!(
        stderr(&good).starts_with("no fault in redeliver.toml"),
        "{}",
        stderr(&good)
    );

    fs::write(
        folder.path().join("policy.toml"),
        "[[row]]\nname = \"mine\"\nstatus = \"4.9.9\"\nscope = \"planet\"\nfinal = \"message\"\n",
    )
    .unwrap();
    let faulty = "[redis]\nshards = 0\n[worker]\nconcurency = 3\n\
                  [policy]\nfile = \"policy.toml\"\n";
    let environment = [("REDELIVER_JOURNAL__KEEP", "ever")];
    let bad = check(faulty, &environment, &[]).await;
    assert_eq!(bad.status.code(), Some(1));
    let reported = String::from_utf8(bad.stdout.clone()).unwrap();
    for fault in [
        "redeliver.toml: redis.shards: 0 is not a whole number",
        "redeliver.toml: worker.concurency: there is no such key",
        "environment: journal.keep: \"ever\"",
        "policy.toml: row.mine.scope: \"planet\" is not one of",
    ] {
        assert!(reported.contains(fault), "{fault}: {reported}");
    }
    assert!(stderr(&bad).starts_with("4 faults"), "{}", stderr(&bad));
    let as_json = check(faulty, &environment, &["--json"]).await;
    let as_json: Value = serde_json::from_slice(&as_json.stdout).unwrap();
    assert_eq!(as_json["faults"].as_array().unwrap().len(), 4, "{as_json}");

    // A row that replaces a built-in row as a whole is valid, and pointed out.
    fs::write(
        folder.path().join("policy.toml"),
        "[[row]]\nname = \"system-full\"\nstatus = \"4.3.1\"\nscope = \"host\"\n\
         delays = [\"1h\"]\nfinal = \"unavailable\"\n",
    )
    .unwrap();
    let replaced = check("[policy]\nfile = \"policy.toml\"\n", &[], &[]).await;
    assert_eq!(replaced.status.code(), Some(0), "{}", stderr(&replaced));
    assert!(
        stderr(&replaced).contains("row.system-full replaces the built-in row as a whole"),
        "{}",
        stderr(&replaced)
    );

    // Faults that are found only by what uses the configuration.
    let open = check("[scheduler]\nlisten = \"0.0.0.0:8025\"\n", &[], &[]).await;
    let reported = String::from_utf8(open.stdout).unwrap();
    assert!(
        reported.contains("scheduler.listen: every client that reaches 0.0.0.0:8025"),
        "{reported}"
    );
    let tokens = check("[access]\ntokens_file = \"missing\"\n", &[], &[]).await;
    let reported = String::from_utf8(tokens.stdout).unwrap();
    assert!(reported.contains("missing"), "{reported}");
    assert_eq!(tokens.status.code(), Some(1));
}

#[tokio::test]
async fn config_print_shows_each_value_with_its_source_and_no_secret() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("redeliver.toml"),
        "[redis]\nurl = \"redis://ann:geheim@redis.internal:6379\"\n[journal]\nkeep = \"3d\"\n",
    )
    .unwrap();
    let environment = [
        ("REDELIVER_REDIS__SHARDS", "4"),
        ("REDELIVER_PRIVACY__ADDRESS_KEY", "geheim-0123456789"),
    ];
    let printed = stdout(&run_in(folder.path(), &environment, &["config", "print"]).await);
    let has = |key: &str, value: &str, source: &str| {
        let line = format!("{key} = {value}");
        let found = printed.lines().find(|shown| shown.starts_with(&line));
        assert!(
            found.is_some_and(|shown| shown.ends_with(&format!("# {source}"))),
            "{line}: {printed}"
        );
    };
    has(
        "redis.url",
        "\"redis://(hidden)@redis.internal:6379\"",
        "redeliver.toml",
    );
    has("redis.shards", "4", "REDELIVER_REDIS__SHARDS");
    has("journal.keep", "\"3d\"", "redeliver.toml");
    has("worker.lease", "\"60s\"", "default");
    has(
        "privacy.address_key",
        "\"(hidden)\"",
        "REDELIVER_PRIVACY__ADDRESS_KEY",
    );
    assert!(!printed.contains("geheim"), "{printed}");

    let printed = run_in(folder.path(), &environment, &["config", "print", "--json"]).await;
    let printed = stdout(&printed);
    assert!(!printed.contains("geheim"), "{printed}");
    let objects: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for expected in [
        json!({"key": "redis.shards", "value": 4, "source": "environment",
            "variable": "REDELIVER_REDIS__SHARDS"}),
        json!({"key": "journal.keep", "value": "3d", "source": "file", "file": "redeliver.toml"}),
        json!({"key": "worker.lease", "value": "60s", "source": "default"}),
    ] {
        assert!(objects.contains(&expected), "{expected}: {printed}");
    }

    // A misspelt key of a secret is not shown either.
    fs::write(
        folder.path().join("redeliver.toml"),
        "[redis]\npasword = \"geheim\"\n",
    )
    .unwrap();
    let output = run_in(folder.path(), &[], &["config", "print"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(
        stderr(&output).contains("redis.pasword") && !stderr(&output).contains("geheim"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn shells_and_man_learn_every_command() {
    let folder = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run_in(folder.path(), &[], &["completions", shell]).await);
        for word in ["quarantine", "suppress", "--resume"] {
            let word = if shell == "fish" {
                word.trim_start_matches('-')
            } else {
                word
            };
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = stdout(&run_in(folder.path(), &[], &["manual"]).await);
    assert!(
        page.contains(".TH redeliver 1") && page.contains("quarantine"),
        "{page}"
    );
    stdout(&run_in(folder.path(), &[], &["manual", "--folder", "man1"]).await);
    let page = fs::read_to_string(folder.path().join("man1/redeliver-submit.1")).unwrap();
    assert!(page.contains("resume"), "{page}");
}
