use super::*;

fn resolve(peer: Option<&str>, lines: &[(&'static str, &str)]) -> Result<String, AddressError> {
    let mut request = http::Request::new(());
    for (name, value) in lines {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    if let Some(peer) = peer {
        request
            .extensions_mut()
            .insert(PeerAddress(peer.parse().unwrap()));
    }
    let header = match lines.first() {
        Some(("forwarded", _)) => ForwardedHeader::Forwarded,
        Some(("x-real-ip", _)) => ForwardedHeader::XForwardedForOrXRealIp,
        _ => ForwardedHeader::XForwardedFor,
    };
    let networks = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let address = ClientAddress::peer().trusting(networks, header);
    address
        .resolve(&RequestHead::of(&request))
        .map(|address| address.to_string())
}

const XFF: &str = "x-forwarded-for";
const REAL: &str = "x-real-ip";

#[test]
fn a_stranger_is_not_asked_for_whom_it_speaks() {
    assert_eq!(
        resolve(Some("192.0.2.1:1"), &[(XFF, "1.2.3.4")]),
        Ok("192.0.2.1".into())
    );
    assert_eq!(
        resolve(None, &[(XFF, "1.2.3.4")]),
        Err(AddressError::NoPeer)
    );
}

#[test]
fn lines_are_joined_and_read_from_the_right() {
    let lines = [
        (XFF, "6.6.6.6"),
        (XFF, "7.7.7.7, 10.0.0.9"),
        (XFF, "10.0.0.8"),
    ];
    assert_eq!(resolve(Some("10.0.0.1:1"), &lines), Ok("7.7.7.7".into()));
    assert_eq!(resolve(Some("10.0.0.1:1"), &[]), Ok("10.0.0.1".into()));
    assert_eq!(
        resolve(Some("[::ffff:10.0.0.1]:1"), &[(XFF, "::ffff:7.7.7.7")]),
        Ok("7.7.7.7".into())
    );
}

#[test]
fn garbage_from_a_trusted_proxy_fails_closed() {
    for garbage in [
        "unknown",
        "_obf",
        "",
        "1.2.3",
        "1.2.3.4:x",
        "[::1",
        "[::1]x",
        "a, ",
        "999.1.1.1",
    ] {
        assert_eq!(
            resolve(Some("10.0.0.1:1"), &[(XFF, garbage)]),
            Err(AddressError::Unreadable),
            "{garbage}"
        );
    }
    let many = vec!["10.0.0.1"; 33].join(",");
    assert_eq!(
        resolve(Some("10.0.0.1:1"), &[(XFF, &many)]),
        Err(AddressError::TooManyHops)
    );
}

#[test]
fn ports_brackets_and_quotes_are_understood() {
    for (line, client) in [
        ("for=7.7.7.7:80;proto=https", "7.7.7.7"),
        ("by=x;For=\"[2001:db8::1]:8080\"", "2001:db8::1"),
        ("for=\"2001:db8::1\"", "2001:db8::1"),
    ] {
        assert_eq!(
            resolve(Some("10.0.0.1:1"), &[("forwarded", line)]),
            Ok(client.into())
        );
    }
    let unknown = resolve(Some("10.0.0.1:1"), &[("forwarded", "for=unknown")]);
    assert_eq!(unknown, Err(AddressError::Unreadable));
}

#[test]
fn what_a_client_wrote_within_quotes_is_no_hop() {
    for line in [
        r#"for=7.7.7.7;host="x,for=6.6.6.6;y=""#,
        r#"for=7.7.7.7;host="x,for=6.6.6.6""#,
        r#"for=7.7.7.7;host="\"",for=10.0.0.3;host="a\",for=6.6.6.6""#,
        r#"host="x;for=6.6.6.6";for="7.7.7.7""#,
        "a line that is none, for=7.7.7.7;;proto=https",
    ] {
        let found = resolve(Some("10.0.0.1:1"), &[("forwarded", line)]);
        assert_eq!(found, Ok("7.7.7.7".into()), "{line}");
    }
    let many = format!("{}for=7.7.7.7", "for=7.7.7.7,".repeat(2_000));
    let found = resolve(Some("10.0.0.1:1"), &[("forwarded", &many)]);
    assert_eq!(found, Err(AddressError::Unreadable));
}

#[test]
fn a_whole_ipv6_prefix_counts_as_one_client() {
    let counted = |text: &str| counted_as(text.parse().unwrap()).to_string();
    assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_eq!(counted("::ffff:192.0.2.1"), "192.0.2.1");
}

#[test]
fn a_parameter_that_comes_twice_is_no_address() {
    for line in [
        "for=7.7.7.7;for=8.8.8.8",
        "for=7.7.7.7;FOR=10.0.0.1",
        "for=\"7.7.7.7, for=10.0.0.1\"",
        "for=\"7.7.7.7;for=10.0.0.1\"",
        "for=\"7.7.7.7\"x",
        "for=\"7.7.7.7\"\"",
        "for=7.7.7.7;host",
        "for=7.7.7.7;host=\"a",
        "for=7.7.7.7;host=a\"b\"",
        "for=7.7.7.7;host=\"a\\\"",
        "proto=https",
        "for=_hidden",
        "for=",
        "for",
    ] {
        let found = resolve(Some("10.0.0.1:1"), &[("forwarded", line)]);
        assert_eq!(found, Err(AddressError::Unreadable), "{line}");
    }
}

#[test]
fn x_real_ip_counts_only_where_nothing_was_forwarded() {
    let proxy = Some("10.0.0.1:1");
    assert_eq!(resolve(proxy, &[(REAL, "7.7.7.7")]), Ok("7.7.7.7".into()));
    let both = [(REAL, "6.6.6.6"), (XFF, "7.7.7.7, 10.0.0.2")];
    assert_eq!(resolve(proxy, &both), Ok("7.7.7.7".into()));
    let stranger = resolve(Some("192.0.2.1:1"), &[(REAL, "7.7.7.7")]);
    assert_eq!(stranger, Ok("192.0.2.1".into()));
    let twice = [(REAL, "7.7.7.7"), (REAL, "7.7.7.7")];
    assert_eq!(resolve(proxy, &twice), Err(AddressError::Unreadable));
    for garbage in ["", "unknown", "7.7.7.7, 8.8.8.8"] {
        let found = resolve(proxy, &[(REAL, garbage)]);
        assert_eq!(found, Err(AddressError::Unreadable), "{garbage}");
    }
}

#[test]
fn only_the_configured_header_is_read() {
    let request = http::Request::builder()
        .header("forwarded", "for=6.6.6.6")
        .header("x-real-ip", "6.6.6.6")
        .header("x-client-ip", "6.6.6.6")
        .header("true-client-ip", "6.6.6.6");
    let mut request = request.body(()).unwrap();
    let peer = PeerAddress("10.0.0.1:1".parse().unwrap());
    request.extensions_mut().insert(peer);
    let address = ClientAddress::peer().trusting(
        ["10.0.0.0/8".parse().unwrap()],
        ForwardedHeader::XForwardedFor,
    );
    let found = address.resolve(&RequestHead::of(&request)).unwrap();
    assert_eq!(found.to_string(), "10.0.0.1");
}

#[test]
fn text_that_is_no_ascii_fails_closed() {
    let mut request = http::Request::new(());
    let value = http::HeaderValue::from_bytes(b"7.7.7.7\xff").unwrap();
    request.headers_mut().insert(XFF, value);
    let peer = PeerAddress("10.0.0.1:1".parse().unwrap());
    request.extensions_mut().insert(peer);
    let networks = ["10.0.0.0/8".parse().unwrap()];
    let address = ClientAddress::peer().trusting(networks, ForwardedHeader::XForwardedFor);
    let found = address.resolve(&RequestHead::of(&request));
    assert_eq!(found, Err(AddressError::Unreadable));
}

#[test]
fn who_trusts_no_proxy_takes_the_address_that_was_found_further_out() {
    let mut request = http::Request::new(());
    let peer = PeerAddress("10.0.0.1:1".parse().unwrap());
    request.extensions_mut().insert(peer);
    let value = http::HeaderValue::from_static("7.7.7.7");
    request.headers_mut().insert(XFF, value);
    let networks = ["10.0.0.0/8".parse().unwrap()];
    let own = ClientAddress::peer().trusting(networks, ForwardedHeader::XForwardedFor);
    let found = |address: &ClientAddress, request: &http::Request<()>| {
        address
            .resolve(&RequestHead::of(request))
            .unwrap()
            .to_string()
    };
    assert_eq!(found(&ClientAddress::peer(), &request), "10.0.0.1");
    let outer = ClientIp::new("9.9.9.9".parse().unwrap());
    request.extensions_mut().insert(outer);
    assert_eq!(found(&ClientAddress::peer(), &request), "9.9.9.9");
    assert_eq!(found(&own, &request), "7.7.7.7");
}

#[test]
fn trusted_networks_add_up_each_with_its_header() {
    let address = ClientAddress::peer()
        .trusting(
            ["10.0.0.0/8".parse().unwrap()],
            ForwardedHeader::XForwardedFor,
        )
        .trusting(
            ["172.16.0.0/12".parse().unwrap()],
            ForwardedHeader::Forwarded,
        );
    for (peer, client) in [
        ("10.0.0.1:1", "7.7.7.7"),
        ("172.16.0.1:1", "8.8.8.8"),
        ("9.9.9.9:1", "9.9.9.9"),
    ] {
        let mut request = http::Request::builder()
            .header(XFF, "7.7.7.7, 172.16.0.2")
            .header("forwarded", "for=8.8.8.8, for=10.0.0.3")
            .body(())
            .unwrap();
        let peer = crate::wire::PeerAddress(peer.parse().unwrap());
        request.extensions_mut().insert(peer);
        let found = address.resolve(&RequestHead::of(&request)).unwrap();
        assert_eq!(found.to_string(), client);
    }
}
