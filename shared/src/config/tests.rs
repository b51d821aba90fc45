//! What files and variables make of the configuration, and which faults are named.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_defaults_set_every_key() {
    let config = Config::embedded();
    assert_eq!(config.redis.prefix, "rd");
    assert_eq!(config.scheduler.listen.unwrap().port(), 8_025);
    assert_eq!(config.worker.lease, 60 * SECOND);
    assert_eq!(config.routes.len(), 1);
    // A key that the code asks for and the file does not show would stay at zero.
    assert!(!format!("{config:?}").contains(": 0,"), "{config:?}");
}

#[test]
fn a_file_overrides_the_defaults_and_the_environment_overrides_the_file() {
    let file = "[worker]\nconcurrency = 8\nbatch = 8\n[[route]]\nname = \"relay\"\nsender = \"smtp\"\nhost = \"mx\"";
    let variables = variables(&[
        ("REDELIVER_WORKER__BATCH", "9"),
        ("REDELIVER_REDIS__URL", "redis://:secret@r/1"),
        ("REDELIVER_SERVICE_HOST", "10.0.0.1"),
    ]);
    let config = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", file)], &variables).unwrap();
    assert_eq!((config.worker.concurrency, config.worker.batch, config.worker.share), (8, 9, 16));
    assert_eq!(config.routes.len(), 2);
    assert!(!format!("{config:?}").contains("secret"), "secrets never print");
    assert_eq!(config.redis.place(), "r:6379");
}

#[test]
fn all_faults_are_reported_at_once_with_file_and_key() {
    let file = "[worker]\nlease = \"soon\"\nspeed = 9\n[[route]]\nname = \"r\"\nsender = \"smtp\"\n[reddis]\n";
    let layers = [("default.toml", DEFAULT), ("mine.toml", file)];
    let faults = Config::from_layers(&layers, &variables(&[("REDELIVER_REDIS__SHARDS", "none")])).unwrap_err();
    let places: Vec<_> = faults.0.iter().map(|fault| format!("{} {}", fault.file, fault.key)).collect();
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
fn providers_and_nameservers_are_read_and_their_faults_named() {
    let good = "[placement]\nmx = true\nnameservers = [\"192.0.2.1\", \"[2001:db8::1]:5353\"]\n\
                [[provider]]\nname = \"acme\"\ndomains = [\"acme.example\"]\n";
    let config = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", good)], &[]).unwrap();
    let servers: Vec<_> = config.placement.nameservers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:5353"]);
    assert_eq!(config.providers.of_domain("acme.example").unwrap().as_str(), "acme");
    assert_eq!(config.providers.of_domain("gmail.com").unwrap().as_str(), "google");

    let bad = "[placement]\ntimeout = \"0s\"\nnameservers = \"dns.example\"\n[[provider]]\nname = \"a.b\"\n";
    let faults = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", bad)], &[]).unwrap_err();
    let keys: Vec<_> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(
        keys,
        ["placement.nameservers", "placement.timeout", "provider.a.b.name", "provider.a.b.domains"],
        "{faults}"
    );
}

#[test]
fn return_paths_are_signed_with_a_key_that_never_prints() {
    let key = variables(&[("REDELIVER_VERP__KEY", "geheim-geheim-geheim")]);
    let file = "[verp]\ndomain = \"Bounce.example.org\"\n[intake.lmtp]\nlisten = \"127.0.0.1:8026\"\n";
    let config = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", file)], &key).unwrap();
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
        let faults = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", file)], &[]).unwrap_err();
        assert_eq!(faults.0[0].key, key, "{faults}");
    }
}

#[test]
fn the_route_that_ships_is_there_only_while_it_is_the_default_route() {
    let relay = "[[route]]\nname = \"relay\"\nsender = \"smtp\"\nhost = \"mx\"\n";
    let own = "[[route]]\nname = \"default\"\nsender = \"log\"\n";
    for (file, names) in [
        (relay.to_owned(), vec!["default", "relay"]),
        (format!("{relay}[worker]\nroute = \"relay\"\n"), vec!["relay"]),
        (format!("{relay}{own}[worker]\nroute = \"relay\"\n"), vec!["relay", "default"]),
    ] {
        let config = Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", &file)], &[]).unwrap();
        assert_eq!(config.routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), names, "{file}");
    }
}

#[test]
fn a_default_route_that_is_not_there_is_a_fault() {
    let layers = [("default.toml", DEFAULT), ("mine.toml", "[worker]\nroute = \"fast\"")];
    let faults = Config::from_layers(&layers, &[]).unwrap_err();
    assert_eq!(faults.0[0].key, "worker.route");
}
