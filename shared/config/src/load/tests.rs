//! How files and variables become the configuration, and which faults are reported.

use typed_toml::set::SECOND;

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn the_defaults_set_every_key() {
    let config = Config::embedded();
    assert_eq!(config.redis.prefix, "rd");
    assert_eq!(config.scheduler.listen.unwrap().port(), 8_025);
    assert_eq!(config.worker.lease, 60 * SECOND);
    assert_eq!(config.routes.len(), 1);
    // A key that the code reads but the file does not contain would stay at zero. The file itself
    // sets only these two to zero.
    let shown =
        format!("{config:?}").replace("Connections { connections: 0, connections_per_peer: 0,", "");
    assert!(!shown.contains(": 0,"), "{shown}");
}

#[test]
fn a_file_overrides_the_defaults_and_the_environment_overrides_the_file() {
    let file = "[worker]\nconcurrency = 8\nbatch = 8\n\
                [[route]]\nname = \"relay\"\nsender = \"smtp\"\nhost = \"mx\"";
    let variables = variables(&[
        ("REDELIVER_WORKER__BATCH", "9"),
        ("REDELIVER_REDIS__URL", "redis://:secret@r/1"),
        ("REDELIVER_SERVICE_HOST", "10.0.0.1"),
    ]);
    let config = Config::from_layers(
        &[("default.toml", DEFAULT), ("mine.toml", file)],
        &variables,
    )
    .unwrap();
    assert_eq!(
        (
            config.worker.concurrency,
            config.worker.batch,
            config.worker.share
        ),
        (8, 9, 16)
    );
    assert_eq!(config.routes.len(), 2);
    assert!(
        !format!("{config:?}").contains("secret"),
        "secrets are never printed"
    );
    assert_eq!(config.redis.place(), "r:6379");
}

#[test]
fn a_list_of_sections_is_one_variable_and_any_other_way_is_refused_with_that_one() {
    let relay = r#"[{name = "relay", sender = "smtp", host = "mx"}]"#;
    let config = Config::from_layers(
        &[("default.toml", DEFAULT)],
        &variables(&[
            ("REDELIVER_ROUTE", relay),
            ("REDELIVER_WORKER__ROUTE", "relay"),
            (
                "REDELIVER_DESTINATION",
                r#"[{name = "example.com", rate = 2}]"#,
            ),
            ("REDELIVER_ROUTE_SERVICE_HOST", "10.0.0.1"),
        ]),
    )
    .unwrap();
    assert_eq!(config.routes.len(), 1, "{:?}", config.routes);
    assert_eq!(config.routes[0].name, "relay");
    for (name, value) in [
        ("REDELIVER_ROUTE__HOST", "mx"),
        ("REDELIVER_ROUTE__RELAY__HOST", "geheim"),
        ("REDELIVER_ROUTE", "geheim"),
        ("REDELIVER_ROUTE", ""),
        ("REDELIVER_ROUTE", r#"{name = "geheim"}"#),
        ("REDELIVER_PROVIDER__DOMAINS", "[]"),
        ("REDELIVER_DESTINATION__0__RATE", "7"),
    ] {
        let layers = [("default.toml", DEFAULT)];
        let faults = Config::from_layers(&layers, &variables(&[(name, value)])).unwrap_err();
        assert_eq!(faults.0.len(), 1, "{faults}");
        let list = name.split("__").next().unwrap();
        let fault = &faults.0[0];
        assert_eq!(fault.file, name);
        assert!(
            fault.text.contains("redeliver.toml") && fault.text.contains(&format!("{list}='[{{")),
            "{faults}"
        );
        assert!(!faults.to_string().contains("geheim"), "{faults}");
    }
    // The examples in the messages are valid.
    for (_, list, example) in crate::read::LISTS {
        let set = variables(&[(list, example)]);
        Config::from_layers(&[("default.toml", DEFAULT)], &set).unwrap();
    }
}

#[test]
fn an_endpoint_of_telemetry_with_a_password_is_refused_and_not_shown() {
    let file = "[telemetry]\nendpoint = \"https://jo:secret@collector:4317\"";
    let layers = [("default.toml", DEFAULT), ("mine.toml", file)];
    let faults = Config::from_layers(&layers, &[]).unwrap_err().to_string();
    assert!(faults.contains("OTEL_EXPORTER_OTLP_HEADERS"), "{faults}");
    assert!(!faults.contains("secret"), "{faults}");
}

#[test]
fn all_faults_are_reported_at_once_with_file_and_key() {
    let file = "[worker]\nlease = \"soon\"\nspeed = 9\n\
                [[route]]\nname = \"r\"\nsender = \"smtp\"\n[reddis]\n";
    let layers = [("default.toml", DEFAULT), ("mine.toml", file)];
    let faults = Config::from_layers(&layers, &variables(&[("REDELIVER_REDIS__SHARDS", "none")]))
        .unwrap_err();
    let places: Vec<_> = faults
        .0
        .iter()
        .map(|fault| format!("{} {}", fault.file, fault.key))
        .collect();
    assert_eq!(
        places,
        [
            "mine.toml reddis",
            "mine.toml worker.lease",
            "mine.toml worker.speed",
            "mine.toml route.r.host",
            "environment redis.shards"
        ],
        "{faults}"
    );
}

#[test]
fn providers_and_nameservers_are_read_and_their_faults_reported() {
    let good = "[placement]\nmx = true\nnameservers = [\"192.0.2.1\", \"[2001:db8::1]:5353\"]\n\
                [[provider]]\nname = \"acme\"\ndomains = [\"acme.example\"]\n";
    let config =
        Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", good)], &[]).unwrap();
    let servers: Vec<_> = config
        .placement
        .nameservers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:5353"]);
    assert_eq!(
        config.providers.of_domain("acme.example").unwrap().as_str(),
        "acme"
    );
    assert_eq!(
        config.providers.of_domain("gmail.com").unwrap().as_str(),
        "google"
    );

    let bad = "[placement]\ntimeout = \"0s\"\nnameservers = \"dns.example\"\n\
               [[provider]]\nname = \"a.b\"\n";
    let faults =
        Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", bad)], &[]).unwrap_err();
    let keys: Vec<_> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "placement.nameservers",
            "placement.timeout",
            "provider.a.b.name",
            "provider.a.b.domains"
        ],
        "{faults}"
    );
}

#[test]
fn return_paths_are_signed_with_a_key_that_is_never_printed() {
    let key = variables(&[("REDELIVER_VERP__KEY", "geheim-geheim-geheim")]);
    let file =
        "[verp]\ndomain = \"Bounce.example.org\"\n[intake.lmtp]\nlisten = \"127.0.0.1:8026\"\n";
    let config =
        Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", file)], &key).unwrap();
    assert!(!format!("{config:?}").contains("geheim"));
    assert_eq!(config.verp.verp().unwrap().domain(), "bounce.example.org");
    assert!(Config::embedded().verp.verp().is_none() && Config::embedded().lmtp.listen.is_none());
    for (file, key) in [
        ("[verp]\ndomain = \"bounce.example.org\"", "verp.key_file"),
        ("[verp]\nkey = \"sixteen-octets-it-is\"", "verp.domain"),
        ("[verp]\nrequired = true", "verp.required"),
        ("[verp]\nkey = \"short\"", "verp.key"),
        ("[verp]\nkey_file = \"/nowhere\"", "verp.key_file"),
        ("[verp]\ndomain = \"a b\"", "verp.domain"),
        ("[intake.lmtp]\nlisten = \"here\"", "intake.lmtp.listen"),
        ("[intake.smtp]\nlisten = \"here\"", "intake.smtp"),
    ] {
        let faults = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", file)], &[])
            .unwrap_err();
        assert_eq!(faults.0[0].key, key, "{faults}");
    }
}

#[test]
fn the_built_in_route_exists_only_while_it_is_the_default_route() {
    let relay = "[[route]]\nname = \"relay\"\nsender = \"smtp\"\nhost = \"mx\"\n";
    let own = "[[route]]\nname = \"default\"\nsender = \"log\"\n";
    for (file, names) in [
        (relay.to_owned(), vec!["default", "relay"]),
        (
            format!("{relay}[worker]\nroute = \"relay\"\n"),
            vec!["relay"],
        ),
        (
            format!("{relay}{own}[worker]\nroute = \"relay\"\n"),
            vec!["relay", "default"],
        ),
    ] {
        let config =
            Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", &file)], &[]).unwrap();
        assert_eq!(
            config
                .routes
                .iter()
                .map(|route| route.name.as_str())
                .collect::<Vec<_>>(),
            names,
            "{file}"
        );
    }
}

#[test]
fn a_default_route_that_does_not_exist_is_a_fault() {
    let layers = [
        ("default.toml", DEFAULT),
        ("mine.toml", "[worker]\nroute = \"fast\""),
    ];
    let faults = Config::from_layers(&layers, &[]).unwrap_err();
    assert_eq!(faults.0[0].key, "worker.route");
}

/// Each of these settings can only be a mistake. All are rejected at the start, with their key and
/// the allowed values.
#[test]
fn settings_that_can_only_be_mistakes_are_rejected_with_key_and_allowed_values() {
    let relay = "[[route]]\nname = \"relay\"\nsender = \"smtp\"\n";
    let host = |host: &str| format!("{relay}host = \"{host}\"\n");
    let named = |name: &str| format!("[[route]]\nname = \"{name}\"\nsender = \"log\"\n");
    let destination = |name: &str| format!("[[destination]]\nname = \"{name}\"\nrate = 1\n");
    let hook = |text: &str| format!("[intake.hooks.postmark]\npassword = \"x\"\n{text}\n");
    let twice = "another [[";
    let cases = [
        // Twice the same section.
        (
            destination("Example.com") + &destination("example.com"),
            "destination.example.com.name",
            twice,
        ),
        (named("relay") + &named("relay"), "route.relay.name", twice),
        // Names that become part of keys, headers, URLs, paths and logs.
        (named("a\\r\\nb"), "route.a\r\nb.name", "A-Z a-z 0-9 . _ -"),
        (named("a b"), "route.a b.name", "A-Z a-z 0-9 . _ -"),
        (named("a/b"), "route.a/b.name", "A-Z a-z 0-9 . _ -"),
        (named(""), "route..name", "A-Z a-z 0-9 . _ -"),
        (
            host("mx.example\\r\\nRSET"),
            "route.relay.host",
            "like \"relay.example.com\"",
        ),
        (
            host("mx.example:25"),
            "route.relay.host",
            "like \"relay.example.com\"",
        ),
        (
            host("smtp://mx.example"),
            "route.relay.host",
            "like \"relay.example.com\"",
        ),
        (
            format!("{}helo = \"a\\r\\nb\"\n", host("mx.example")),
            "route.relay.helo",
            "host name",
        ),
        (
            format!("{}username = \"a\\u0000b\"\n", host("mx.example")),
            "route.relay.username",
            "control characters",
        ),
        (
            "[worker]\nhttp_hosts = [\"*\"]\n".to_owned(),
            "worker.http_hosts",
            "is not a host like",
        ),
        (
            destination("*example.com"),
            "destination.*example.com.name",
            "\"*.example.com\"",
        ),
        (
            destination("a.*.example"),
            "destination.a.*.example.name",
            "\"*.example.com\"",
        ),
        (
            destination("a\\nb"),
            "destination.a\nb.name",
            "\"*.example.com\"",
        ),
        (
            hook("user = \"a\\nb\""),
            "intake.hooks.postmark.user",
            "control characters",
        ),
        (
            hook("user = \"a:b\""),
            "intake.hooks.postmark.user",
            "colon",
        ),
        (
            hook("user = \"a\"\naccount = \"a/b\""),
            "intake.hooks.postmark.account",
            "A-Z a-z 0-9 . _ -",
        ),
        (
            "[intake.hooks.ses]\ntopics = [\"*\"]".to_owned(),
            "intake.hooks.ses.topics",
            "arn:aws:sns",
        ),
        (
            "[intake.lmtp]\naccount = \"a/b\"".to_owned(),
            "intake.lmtp.account",
            "A-Z a-z 0-9 . _ -",
        ),
        (
            "[intake.lmtp]\nhost = \"a\\r\\nb\"".to_owned(),
            "intake.lmtp.host",
            "host name",
        ),
        (
            "[access]\ntokens = [\"a/b read sha256:0\"]".to_owned(),
            "access.tokens",
            "A-Z a-z 0-9 . _ -",
        ),
        (
            "[redis]\nprefix = \"*\"".to_owned(),
            "redis.prefix",
            "A-Z a-z 0-9 . _ : -",
        ),
        (
            "[redis]\nprefix = \"rd{1}\"".to_owned(),
            "redis.prefix",
            "A-Z a-z 0-9 . _ : -",
        ),
        (
            "[redis]\nprefix = \"r?[d]\"".to_owned(),
            "redis.prefix",
            "A-Z a-z 0-9 . _ : -",
        ),
        (
            "[redis]\nurl = \"redis://h\\n/1\"".to_owned(),
            "redis.url",
            "URL",
        ),
        (
            "[redis]\nsentinel = { master = \"a\\nb\", nodes = [\"redis://s1\"] }".to_owned(),
            "redis.sentinel.master",
            "control characters",
        ),
        // Content that would be read over an unencrypted network, or a path that depends on the
        // folder in which a worker starts.
        (
            "[content]\nstores = [\"http://store.example/mail\"]".to_owned(),
            "content.stores",
            "write https://",
        ),
        (
            "[content]\nstores = [\"https://store.example/\\r\\nmail\"]".to_owned(),
            "content.stores",
            "s3://bucket",
        ),
        (
            "[content]\nroots = [\"mail\"]".to_owned(),
            "content.roots",
            "absolute path",
        ),
        // Tasks that never run.
        (
            "[upkeep]\nrepair = \"0 0 0 30 2 *\"".to_owned(),
            "upkeep.repair",
            "within a year",
        ),
        (
            "[upkeep]\nreinstate = \"0 0 0 1 1 * 2020\"".to_owned(),
            "upkeep.reinstate",
            "within a year",
        ),
        // Texts that are not cron expressions, with the number of their fields.
        (
            "[upkeep]\ntrim_journal = \"every day\"".to_owned(),
            "upkeep.trim_journal",
            "has 2 fields; 6 are needed, the first is seconds",
        ),
        (
            "[upkeep]\nrepair = \"0 3 * * *\"".to_owned(),
            "upkeep.repair",
            "has 5 fields; 6 are needed, the first is seconds",
        ),
        (
            "[upkeep]\nrepair = \"\"".to_owned(),
            "upkeep.repair",
            "has 0 fields; 6 are needed",
        ),
        (
            "[upkeep]\nrepair = \"x\"".to_owned(),
            "upkeep.repair",
            "has 1 field; 6 are needed",
        ),
        (
            "[upkeep]\nrepair = \"0 0 25 * * *\"".to_owned(),
            "upkeep.repair",
            "second minute hour",
        ),
        (
            "[upkeep]\nrepair = \"@often\"".to_owned(),
            "upkeep.repair",
            "second minute hour",
        ),
        // Windows that are larger than the largest one.
        (
            "[pace]\nwindow_min = 201".to_owned(),
            "pace.window_min",
            "is 201, larger than",
        ),
        (
            "[pace]\nwindow_max = 1".to_owned(),
            "pace.window_new",
            "pace.window_max, which is 1",
        ),
        (
            "[pace]\nwindow_new = 300".to_owned(),
            "pace.window_new",
            "is 300, larger than",
        ),
    ];
    for (text, key, allowed) in cases {
        let faults =
            Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", &text)], &[]).err();
        let faults = faults.unwrap_or_else(|| panic!("accepted: {text}"));
        let is_reported = faults
            .0
            .iter()
            .any(|fault| fault.key == key && fault.text.contains(allowed));
        assert!(is_reported, "{text}: {faults}");
        assert!(
            !faults.to_string().contains('\r'),
            "a fault has one line: {faults:?}"
        );
        let mut cron_faults = faults
            .0
            .iter()
            .filter(|fault| fault.key.starts_with("upkeep."));
        let is_one_line = |fault: &SettingsFault| !fault.text.contains(['\n', '^']);
        assert!(
            cron_faults.all(is_one_line),
            "a fault contains the parser's own message, with carets: {faults:?}"
        );
    }
    let good = "[content]\nroots = [\"/srv/mail\"]\n\
                stores = [\"http://127.0.0.1:9000/mail\", \"s3://bucket\"]\n\
                [redis]\nprefix = \"app:rd-1\"\n[[destination]]\nname = \"*\"\n\
                [[destination]]\nname = \"a.example+b.example\"\n";
    let fixed = "[pace]\nwindow_new = 2\nwindow_min = 2\nwindow_max = 2\n";
    let good = format!("{good}{fixed}{}", host("2001:db8::1"));
    Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", &good)], &[]).unwrap();
}

/// A named pipe without a writer would block the start for ever.
#[test]
fn files_that_are_not_regular_are_rejected_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let large = folder.path().join("large");
    std::fs::File::create(&large)
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    for (file, why) in [
        (pipe.as_path(), "a named pipe"),
        (folder.path(), "a folder"),
        (Path::new("/dev/zero"), "a device"),
        (&large, "larger than 4 MiB"),
        (Path::new("/nowhere"), "cannot be read"),
    ] {
        let shown = file.display();
        let text = format!(
            "[redis]\nurl_file = \"{shown}\"\npassword_file = \"{shown}\"\n\
             tls_ca_file = \"{shown}\"\n[verp]\nkey_file = \"{shown}\"\n\
             [intake.hooks.mailgun]\nsigning_key_file = \"{shown}\"\n\
             [[route]]\nname = \"r\"\nsender = \"http\"\nsecret_file = \"{shown}\"\n\
             ca_file = \"{shown}\"\n\
             [[route]]\nname = \"s\"\nsender = \"smtp\"\nhost = \"h\"\nusername = \"u\"\n\
             password_file = \"{shown}\"\ntls = \"required\"\ntls_ca_file = \"{shown}\"\n"
        );
        let faults = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", &text)], &[])
            .unwrap_err();
        let refused = |key: &str| {
            faults
                .0
                .iter()
                .any(|fault| fault.key == key && fault.text.contains(why))
        };
        for key in [
            "redis.url_file",
            "redis.password_file",
            "redis.tls_ca_file",
            "verp.key_file",
            "intake.hooks.mailgun.signing_key_file",
            "route.r.secret_file",
            "route.r.ca_file",
            "route.s.password_file",
            "route.s.tls_ca_file",
        ] {
            assert!(refused(key), "{key} {shown}: {faults}");
        }
        let config = Config {
            policy: crate::model::Policy {
                file: Some(file.to_owned()),
            },
            ..Config::embedded()
        };
        assert!(
            config.policy().unwrap_err().to_string().contains(why),
            "{shown}"
        );
        assert!(
            Config::load(Some(file))
                .unwrap_err()
                .to_string()
                .contains(why),
            "{shown}"
        );
    }
}

#[test]
fn a_wrong_route_is_reported_together_with_faults_of_other_sections() {
    let file = "[verp]\nx = 1\n[worker]\nroute = \"nope\"\n";
    let faults =
        Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", file)], &[]).unwrap_err();
    let keys: Vec<_> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["verp.x", "worker.route"], "{faults}");
    let text = &faults.0[1].text;
    assert!(
        text.contains("there is no [[route]] called \"nope\""),
        "{text}"
    );
}

#[test]
fn no_two_listeners_have_the_same_port_in_the_defaults_and_examples() {
    let lines = DEFAULT
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ']));
    let listeners = lines.filter_map(|line| line.strip_prefix("listen = \""));
    let mut ports: Vec<&str> = listeners
        .filter_map(|rest| rest.split('"').next()?.rsplit(':').next())
        .collect();
    assert!(ports.len() > 2, "{ports:?}");
    ports.sort_unstable();
    assert!(ports.is_sorted_by(|a, b| a < b), "{ports:?}");
}
