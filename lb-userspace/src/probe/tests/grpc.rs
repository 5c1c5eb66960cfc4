//! gRPC health checks against tonic's health service, and servers that are none.

use tonic::transport::Server as TonicServer;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use super::*;

#[tokio::test]
async fn a_health_service_is_asked() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.v1.Cart", ServingStatus::Serving).await;
    reporter.set_service_status("shop.v1.Till", ServingStatus::NotServing).await;
    reporter.set_service_status("shop.v1.Fog", ServingStatus::Unknown).await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let incoming = TcpIncoming::bind(address.parse().unwrap()).unwrap();
        let at = incoming.local_addr().unwrap();
        let server = TonicServer::builder().add_service(service.clone());
        let task = tokio::spawn(server.serve_with_incoming(incoming));
        for (name, expect) in [
            ("", "ok".to_owned()),
            ("shop.v1.Cart", "ok".to_owned()),
            ("shop.v1.Till", format!("status: service \"shop.v1.Till\" is NOT_SERVING at {at}")),
            ("shop.v1.Fog", format!("status: service \"shop.v1.Fog\" is UNKNOWN at {at}")),
            (
                "shop.v1.None",
                format!("status: service \"shop.v1.None\" is unknown to {at} (gRPC NOT_FOUND)"),
            ),
        ] {
            let probe = read(&format!("grpc = \"{name}\""));
            assert_eq!(text(ask(at, &probe, PATIENCE).await), expect, "{name}");
        }
        task.abort();
    }
}

#[tokio::test]
async fn servers_without_it_are_told_apart() {
    use FailureKind::{Protocol, Refused, Reset, Timeout};
    let probe = read("grpc = \"\"");
    let silent = "timeout: connected, but no gRPC answer from {} within 300 ms";
    check("silent", probe.clone(), Server::Silent, Some((Timeout, silent))).await;
    let refused = "refused: connection refused on {}";
    check("refused", probe.clone(), Server::Absent, Some((Refused, refused))).await;
    for (name, server, kind) in [
        ("http/1", Server::Says("HTTP/1.1 400 Bad Request\r\n\r\n"), Protocol),
        ("closes", Server::Closes, Reset),
        ("resets", Server::Resets, Reset),
    ] {
        let (at, task) = serve("127.0.0.1".parse().unwrap(), server).await;
        let failure = ask(at, &probe, PATIENCE).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{name}: {}", failure.text);
        task.abort();
    }
    // A gRPC server with another service alone.
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = incoming.local_addr().unwrap();
    let server = TonicServer::builder().add_routes(tonic::service::Routes::default());
    tokio::spawn(server.serve_with_incoming(incoming));
    let expect = format!("status: {at} has no health service (gRPC UNIMPLEMENTED)");
    assert_eq!(text(ask(at, &probe, PATIENCE).await), expect);
}
