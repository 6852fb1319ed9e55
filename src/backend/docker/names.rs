//! What may become part of the engine's URLs, and the parts of an image reference.

/// A name or id of a container, network or volume, as the engine allows them.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.bytes().all(plain) && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// A whole id, as the engine gives them; a name could look like it.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// An image reference: nothing in it ends a path or climbs out of it.
pub(super) fn is_reference(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':' | b'@');
    let part = |part: &str| part.bytes().all(plain) && part.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    // The engine's own limits: 255 for the name, 128 for a tag, and a digest.
    text.len() <= 512 && text.split('/').all(part)
}

/// An image reference taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    /// As written, without tag and digest.
    pub(super) name: &'a str,
    /// A tag, or a digest with its algorithm; `latest` when there is none: without one an engine pulls every tag.
    pub(super) tag: &'a str,
    /// Host and port of the registry.
    pub(super) registry: &'a str,
}

/// Docker's own registry.
pub(super) const HUB: &str = "docker.io";

impl<'a> Reference<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        let last_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let colon = rest[last_slash..].find(':').map(|colon| last_slash + colon);
        let (name, tag) = colon.map_or((rest, None), |colon| (&rest[..colon], Some(&rest[colon + 1..])));
        let first = name.split_once('/').map_or("", |(first, _)| first);
        let registry = if first.contains(['.', ':']) || first == "localhost" { first } else { HUB };
        Self { name, tag: digest.or(tag).unwrap_or("latest"), registry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart_as_docker_does() {
        let parts = |text| {
            let Reference { name, tag, registry } = Reference::parse(text);
            (name, tag, registry)
        };
        assert_eq!(parts("nginx"), ("nginx", "latest", HUB));
        assert_eq!(parts("library/nginx:1.27"), ("library/nginx", "1.27", HUB));
        assert_eq!(parts("localhost/web:1"), ("localhost/web", "1", "localhost"));
        assert_eq!(parts("localhost:5000/web"), ("localhost:5000/web", "latest", "localhost:5000"));
        assert_eq!(parts("quay.io/a/b:c@sha256:00"), ("quay.io/a/b", "sha256:00", "quay.io"));
    }

    #[test]
    fn nothing_that_changes_a_url_is_a_name_or_a_reference() {
        for bad in ["", "a b", "a?b", "a#b", "a%2f", "../x", "a/../b", "/a", "a//b", "a\nb", "-a"] {
            assert!(!is_reference(bad), "{bad}");
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_reference("registry.example:5000/a/b_c:v1.2@sha256:abc"));
        assert!(is_name("shop-web-1-0a1b2c3d"));
        assert!(!is_name("a/b"));
    }
}
