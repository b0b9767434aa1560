//! Who may ask, and how often.

use crate::support::{DIALECTS, Server, chat, request};

#[test]
fn keys_open_the_server_in_either_header() {
    let server = Server::start(&["--api-key", "secret", "--api-key", "other"]);
    for path in ["/health", "/ready", "/"] {
        assert_eq!(server.get(path, "").status, 200, "{path}");
    }
    let body = chat("hi", 1).to_string();
    let ask = |path: &str, headers: &str| server.raw(&request(path, headers, body.as_bytes()));
    for headers in ["authorization: Bearer secret\r\n", "x-api-key: other\r\n"] {
        assert_eq!(ask("/v1/chat/completions", headers).status, 200);
        assert_eq!(ask("/v1/messages", headers).status, 200);
    }
    // clients of Anthropic's send both, and one of them may be a placeholder
    for headers in [
        "authorization: Bearer secret\r\nx-api-key: none\r\n",
        "authorization: Bearer none\r\nx-api-key: secret\r\n",
    ] {
        assert_eq!(ask("/v1/chat/completions", headers).status, 200, "{headers}");
    }
    for headers in [
        "",
        "authorization: Bearer secre\r\n",
        "x-api-key: \r\n",
        "authorization: Bearer a\r\nx-api-key: b\r\n",
    ] {
        for (path, _) in DIALECTS {
            let refused = ask(path, headers);
            assert_eq!(refused.status, 401, "{path}: {headers}");
            let error = refused.error(path, "API key");
            assert_eq!(error["error"]["type"], "authentication_error");
        }
        let refused = ask("/v1/chat/completions", headers);
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    }
    assert_eq!(server.get("/metrics", "").status, 401);
    assert_eq!(server.get("/nope", "").status, 401, "nothing is told without a key");
}

#[test]
fn a_rate_is_kept() {
    let server = Server::start(&["--rate-limit", "2"]);
    let statuses: Vec<u16> = (0..3).map(|_| server.get("/v1/models", "").status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    for (path, body) in DIALECTS {
        let refused = server.post(path, &body("hi"));
        assert_eq!(refused.status, 429, "{path}");
        let error = refused.error(path, "more than 2 requests a minute");
        assert_eq!(error["error"]["type"], "rate_limit_error");
        let wait: u64 = refused.header("retry-after").expect("when to come back").parse().unwrap();
        assert!((1..=30).contains(&wait), "{wait}");
    }
    assert_eq!(server.get("/health", "").status, 200);
}

#[test]
fn pages_of_other_origins_do_not_get_in() {
    let server = Server::start(&["--cors-origin", "https://a.example"]);
    let reply = server.get("/v1/models", "origin: https://a.example\r\n");
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://a.example"));
    let reply = server.get("/v1/models", "origin: https://evil.example\r\n");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (403, None));
    let own = server.raw(
        b"GET /v1/models HTTP/1.1\r\nhost: localhost:80\r\norigin: http://localhost:80\r\n\
          connection: close\r\n\r\n",
    );
    assert_eq!(own.status, 200, "its own page");
    // The owner of a name can make it point here.
    assert_eq!(server.get("/v1/models", "origin: http://t\r\n").status, 403);
    let preflight = server.raw(
        b"OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: t\r\norigin: https://a.example\r\n\
          access-control-request-method: POST\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
}

#[test]
fn requests_carry_an_id() {
    let server = Server::start(&[]);
    let reply = server.get("/health", "x-request-id: mine-1\r\n");
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    let reply = server.get("/health", &format!("x-request-id: {}\r\n", "x".repeat(500)));
    assert!(reply.header("x-request-id").unwrap().starts_with("req_"));
}

#[test]
fn a_taken_port_is_an_error_that_says_so() {
    let server = Server::start(&[]);
    let port = server.address.port().to_string();
    let args = ["--model", crate::support::MODEL, "--port", &port];
    let ran = tests::Running::start(tests::imp_server().args(args), b"").end();
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("is taken by another program; --port"), "{}", ran.err);
}
