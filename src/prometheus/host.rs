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
    // An address may have a zone, `fe80::1%eth0`.
    let name = name.split('%').next().unwrap_or(name);
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn property_a_registrable_name_is_rejected(
            name in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}\\.(com|example|x)",
            port in proptest::option::of(any::<u16>()),
            dot in "\\.{0,2}",
        ) {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let host = HeaderValue::from_str(&format!("{name}{dot}{port}")).unwrap();
            prop_assert!(!is_local(&host), "{:?}", host);
        }

        #[test]
        fn property_any_header_is_accepted_or_rejected(host in any::<Vec<u8>>()) {
            let host = HeaderValue::from_bytes(&host);
            let _ = host.is_ok_and(|host| is_local(&host));
        }

        #[test]
        fn property_an_address_is_accepted(address: std::net::SocketAddr) {
            let host = HeaderValue::from_str(&address.to_string()).unwrap();
            prop_assert!(is_local(&host), "{:?}", host);
        }
    }
}
