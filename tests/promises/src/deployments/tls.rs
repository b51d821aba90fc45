//! TLS works with one server, with Sentinel and in a Cluster. Both sides verify the certificate of
//! the other, and no connection is made without TLS.

use harness::certificates::Certificates;
use harness::port::free_port;
use harness::servers::{Cluster, Sentinel, Servers, programs};
use harness::wait::{eventually, in_time};
use store::error::StoreError;

use super::{connections, login, use_every_verb, user, world_on};

#[tokio::test]
async fn client_and_server_verify_the_certificate_of_the_other() {
    for program in programs() {
        let servers = Servers::new(&program);
        let made = Certificates::make(servers.folder());
        let [authority, certificate, key] =
            [&made.authority, &made.certificate, &made.key].map(|path| path.display());
        let port = free_port();
        let tls = [
            format!("tls-port {port}"),
            format!("tls-ca-cert-file {authority}"),
            format!("tls-cert-file {certificate}"),
            format!("tls-key-file {key}"),
        ];
        let mut directives: Vec<&str> = tls.iter().map(String::as_str).collect();
        directives.extend(["port 0", "bind 127.0.0.1", "save \"\""]);
        servers.spawn(port, &directives, &[]);
        let url = format!("url = \"rediss://127.0.0.1:{port}\"\n");
        let trust = format!("{url}tls_ca_file = \"{authority}\"\n");
        let own = format!("{trust}tls_cert_file = \"{certificate}\"\ntls_key_file = \"{key}\"\n");
        let asking = connections(&own);
        eventually("the server answers", async || {
            asking.info("server").await.ok()
        })
        .await;
        in_time("all verbs", use_every_verb(&world_on(&own).await)).await;

        assert!(
            connections(&trust).info("server").await.is_err(),
            "the server requires a client certificate"
        );
        let Err(StoreError::Unavailable(why)) = connections(&url).info("server").await else {
            panic!("the certificate was accepted")
        };
        assert!(why.to_lowercase().contains("certificate"), "{why}");
    }
}

#[tokio::test]
async fn sentinels_and_the_servers_that_they_name_are_reached_over_tls() {
    for program in programs() {
        let sentinel = Sentinel::start_with(Servers::encrypted(&program), &[&user()]).await;
        let nodes = sentinel.sentinels.map(|port| {
            format!(
                "\"rediss://127.0.0.1:{}\"",
                sentinel.servers.reached_at(port)
            )
        });
        let redis = format!(
            "sentinel = {{ master = \"mail\", nodes = [{}] }}\nsentinel_password = \"{}\"\n{}",
            nodes.join(", "),
            harness::servers::SENTINEL_PASSWORD,
            login()
        );
        is_trusted_only_with_its_authority(&sentinel.servers, &redis).await;
    }
}

#[tokio::test]
async fn all_nodes_of_a_cluster_are_reached_over_tls() {
    for program in programs() {
        let cluster = Cluster::start_with(Servers::encrypted(&program), &[&user()]).await;
        let nodes = cluster.ports[..2]
            .iter()
            .map(|port| cluster.servers.reached_at(*port));
        let nodes: Vec<_> = nodes
            .map(|port| format!("\"rediss://127.0.0.1:{port}\""))
            .collect();
        let redis = format!("cluster = [{}]\n{}", nodes.join(", "), login());
        is_trusted_only_with_its_authority(&cluster.servers, &redis).await;
    }
}

/// Uses the store over TLS. Without the authority of the servers, no server is trusted.
async fn is_trusted_only_with_its_authority(servers: &Servers, redis: &str) {
    let authority = servers.folder().join("ca.pem");
    let trust = format!("{redis}tls_ca_file = \"{}\"\n", authority.display());
    in_time("all verbs", use_every_verb(&world_on(&trust).await)).await;
    let Err(err) = connections(redis).info("server").await else {
        panic!("the servers were trusted without their authority")
    };
    assert!(matches!(err, StoreError::Unavailable(_)), "{err}");
}
