//! Who may ask: keys, origins, rates.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::ApiError;
use crate::limits::RATE_ENTRIES;

/// The keys that open the server; without any it is open.
#[derive(Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Keeps digests alone, whose comparison takes the same time whatever was sent.
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// Checks `Authorization: Bearer` and `x-api-key`: either opens it, whatever the other says.
    ///
    /// # Errors
    /// 401 for a wrong or missing key.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let refuse =
            |message| Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"));
        let given: Vec<[u8; 32]> = given_keys(headers).map(digest).collect();
        if given.is_empty() {
            return refuse(
                "an API key is needed: Authorization: Bearer <key>, or x-api-key: <key>",
            );
        }
        // all are compared with all, whichever fits
        let pairs = given.iter().flat_map(|given| self.0.iter().map(move |key| key.ct_eq(given)));
        let known = pairs.fold(Choice::from(0), |known, same| known | same);
        if bool::from(known) { Ok(()) } else { refuse("the API key is not valid") }
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What stands in the headers for keys: at most one of each kind.
fn given_keys(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    headers.get("x-api-key").map(HeaderValue::as_bytes).into_iter().chain(bearer)
}

/// The origins whose pages may call the server.
#[derive(Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
    /// Whether requests carry a key, which no foreign page knows.
    keyed: bool,
}

impl Origins {
    /// The origins of `--cors-origin`; `keyed` where there is an `--api-key`.
    pub fn new(allowed: Vec<String>, keyed: bool) -> Self {
        Self { allowed, keyed }
    }

    /// The value of `access-control-allow-origin` for a request, if it gets one.
    ///
    /// # Errors
    /// 403 for a page of another origin. A browser would hide the answer from it, but only after
    /// the work was done.
    pub fn check(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(None) };
        if self.allowed.iter().any(|allowed| allowed == "*") {
            return Ok(Some(HeaderValue::from_static("*")));
        }
        if self.allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(Some(origin.clone()));
        }
        if is_own(origin, headers) && (self.keyed || is_local(origin)) {
            return Ok(None);
        }
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let message = format!("pages of {origin} may not call this server; see --cors-origin");
        Err(ApiError::new(StatusCode::FORBIDDEN, message).code("origin_not_allowed"))
    }
}

/// Whether the origin's name means this machine or an address: any other name may be made to point here by
/// the one who owns it, so that a foreign page looks like the server's own.
fn is_local(origin: &HeaderValue) -> bool {
    let authority = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, a)| a);
    let authority = authority.and_then(|text| text.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
    })
}

/// Whether the page came from this server.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// Headers of the answer to a page of an allowed origin.
pub fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue, method: &Method) {
    let fixed = HeaderValue::from_static;
    headers.insert("access-control-allow-origin", origin);
    headers.insert("vary", fixed("origin"));
    headers.insert("access-control-expose-headers", fixed("x-request-id, retry-after"));
    if method == Method::OPTIONS {
        headers.insert("access-control-allow-methods", fixed("GET, POST, OPTIONS"));
        // what the clients of both dialects send; "*" would not cover authorization
        headers.insert(
            "access-control-allow-headers",
            fixed(
                "authorization, content-type, x-api-key, x-request-id, anthropic-version, \
                 anthropic-beta, anthropic-dangerous-direct-browser-access, openai-organization, \
                 openai-project, x-stainless-arch, x-stainless-lang, x-stainless-os, \
                 x-stainless-package-version, x-stainless-retry-count, x-stainless-runtime, \
                 x-stainless-runtime-version, x-stainless-timeout",
            ),
        );
        headers.insert("access-control-max-age", fixed("600"));
    }
}

/// Requests a minute of one address: a burst of a minute's worth, then evenly (GCRA).
#[derive(Debug)]
pub struct Rate {
    per_minute: u32,
    /// When an address has used up what it was given.
    used_until: Mutex<HashMap<IpAddr, Instant>>,
}

impl Rate {
    /// 0 is unlimited.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, used_until: Mutex::new(HashMap::new()) }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// 429 with the time to wait; the request is not counted.
    pub fn check(&self, peer: IpAddr, now: Instant) -> Result<(), ApiError> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let share = Duration::from_secs(60) / self.per_minute;
        let mut table = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= RATE_ENTRIES {
            table.retain(|_, until| *until > now);
        }
        if table.len() >= RATE_ENTRIES && !table.contains_key(&network(peer)) {
            return Err(limited("requests come from too many addresses", 1));
        }
        let until = table.entry(network(peer)).or_insert(now);
        let next = (*until).max(now) + share;
        let ahead = next.duration_since(now);
        if ahead > Duration::from_secs(60) {
            let wait = (ahead - Duration::from_secs(60)).as_secs_f64().ceil() as u64;
            let limit = format!("more than {} requests a minute from one address", self.per_minute);
            return Err(limited(&limit, wait.max(1)));
        }
        *until = next;
        Ok(())
    }
}

fn limited(limit: &str, wait_s: u64) -> ApiError {
    let message = format!("{limit} (--rate-limit); try again in {wait_s} s");
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded");
    ApiError { retry_after_s: Some(wait_s), ..error }
}

/// One subscriber holds a whole IPv6 /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, v)| (name.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn keys_are_taken_from_either_header() {
        let keys = Keys::new(&["one".into(), "two".into()]);
        for given in
            [("authorization", "Bearer one"), ("authorization", "bearer two"), ("x-api-key", "two")]
        {
            assert!(keys.check(&headers(&[given])).is_ok(), "{given:?}");
        }
        for given in [
            ("authorization", "Bearer onetwo"),
            ("authorization", "Basic one"),
            ("authorization", "Bearer"),
            ("x-api-key", ""),
            ("x-other", "one"),
        ] {
            assert_eq!(keys.check(&headers(&[given])).unwrap_err().status, 401, "{given:?}");
        }
        assert!(Keys::default().check(&headers(&[])).is_ok());
    }

    #[test]
    fn a_wrong_key_hides_no_right_one() {
        let keys = Keys::new(&["one".into()]);
        for (bearer, key, opens) in
            [("Bearer one", "none", true), ("Bearer none", "one", true), ("Bearer a", "b", false)]
        {
            let given = headers(&[("authorization", bearer), ("x-api-key", key)]);
            assert_eq!(keys.check(&given).is_ok(), opens, "{bearer}, {key}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let origins = Origins::new(vec!["https://a.example".into()], false);
        let check = |pairs: &[(&'static str, &str)]| origins.check(&headers(pairs));
        assert_eq!(check(&[]), Ok(None));
        let own = [("origin", "http://127.0.0.1:8080"), ("host", "127.0.0.1:8080")];
        assert_eq!(check(&own), Ok(None));
        let allowed = check(&[("origin", "https://a.example"), ("host", "h")]).unwrap();
        assert_eq!(allowed.unwrap(), "https://a.example");
        for origin in ["https://b.example", "null", "https://a.example.evil"] {
            let refused = check(&[("origin", origin), ("host", "h")]).unwrap_err();
            assert_eq!(refused.status, 403, "{origin}");
        }
        let rebound = [("origin", "http://evil.example:8080"), ("host", "evil.example:8080")];
        assert_eq!(check(&rebound).unwrap_err().status, 403);
        let keyed = Origins::new(vec![], true);
        assert_eq!(keyed.check(&headers(&rebound)), Ok(None));
        let local = [("origin", "http://[::1]:8080"), ("host", "[::1]:8080")];
        assert_eq!(check(&local), Ok(None));
        let any =
            Origins::new(vec!["*".into()], false).check(&headers(&[("origin", "null")])).unwrap();
        assert_eq!(any.unwrap(), "*");
    }

    #[test]
    fn a_rate_allows_a_minutes_worth_and_says_when_more() {
        let rate = Rate::new(6);
        let peer = |last| IpAddr::from([10, 0, 0, last]);
        let now = Instant::now();
        for _ in 0..6 {
            rate.check(peer(1), now).unwrap();
        }
        let refused = rate.check(peer(1), now).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.retry_after_s), (429, Some(10)));
        rate.check(peer(2), now).unwrap();
        rate.check(peer(1), now + Duration::from_secs(10)).unwrap();
        assert!(rate.check(peer(1), now + Duration::from_secs(10)).is_err());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let address = |text: &str| network(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }
}
