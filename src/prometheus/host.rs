//! Protection from DNS rebinding: a web page whose name is made to resolve to this host.

use std::net::IpAddr;

use http::header::HOST;
use http::{HeaderMap, HeaderValue};

/// Returns whether a request over a loopback address may have been meant for it.
///
/// A browser sends the host name of the page. The attacker has registered that name, so it contains
/// a dot and is not an address. Other names, such as `localhost` or that of a container, pass.
pub(super) fn is_for_loopback(headers: &HeaderMap) -> bool {
    headers.get_all(HOST).iter().all(is_local)
}

fn is_local(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = without_port(host).trim_start_matches('[').trim_end_matches(']');
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    !name.contains('.') || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // `[::1]` has colons and no port.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registrable_names_are_rejected() {
        let is_for_loopback = |host: &'static str| {
            is_for_loopback(&[(HOST, HeaderValue::from_static(host))].into_iter().collect())
        };
        for host in ["localhost", "LocalHost:9464", "127.0.0.1", "10.1.2.3:80", "[::1]:80", "[::1]"]
        {
            assert!(is_for_loopback(host), "{host}");
        }
        for host in ["", "metrics", "metrics:9464", "app.localhost"] {
            assert!(is_for_loopback(host), "{host}");
        }
        for host in
            ["evil.example", "Evil.Example.:9464", "localhost.evil.example", "127.0.0.1.x.y"]
        {
            assert!(!is_for_loopback(host), "{host}");
        }
        assert!(super::is_for_loopback(&HeaderMap::new()));
    }
}
