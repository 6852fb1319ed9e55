//! Golden texts of plans: what differs from run to run is replaced by a name before the comparison.

use std::fs;
use std::path::Path;

use super::Site;

/// Compares with `tests/golden/e2e/<name>.txt`. With `REEVE_GOLDEN=overwrite` in the environment the file is written instead.
#[track_caller]
pub fn golden(site: &Site, name: &str, text: &str) {
    let text = normal(site, text);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/e2e").join(format!("{name}.txt"));
    if std::env::var("REEVE_GOLDEN").as_deref() == Ok("overwrite") {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder is made");
        fs::write(&path, &text).expect("the golden file is written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if text == expected {
        return;
    }
    let diff = similar::TextDiff::from_lines(&expected, &text);
    let diff = diff.unified_diff().header("golden", "now").to_string();
    panic!("{} differs (REEVE_GOLDEN=overwrite takes the new text):\n{diff}", path.display());
}

/// Project, node, folder, ports, addresses, hashes and ids by names, in the order in which they appear.
pub fn normal(site: &Site, text: &str) -> String {
    let mut text = text
        .replace(&site.folder().display().to_string(), "FOLDER")
        .replace(&site.project, "shop")
        .replace(&site.node, "edge");
    for number in 0..8 {
        text = replace_number(&text, site.ports.listen(number), &format!("LISTEN{number}"));
    }
    for number in 0..20 {
        text = replace_number(&text, site.ports.published(number), &format!("PORT{number}"));
    }
    text = replace_number(&text, site.ports.probe(), "PROBE");
    text = addresses(&text);
    hashes(&text)
}

fn replace_number(text: &str, number: u16, name: &str) -> String {
    replace_tokens(text, |c| c.is_ascii_digit(), |token| (token == number.to_string()).then(|| name.to_owned()))
}

/// IPv4 addresses other than loopback and "any".
fn addresses(text: &str) -> String {
    replace_tokens(
        text,
        |c| c.is_ascii_digit() || c == '.',
        |token| {
            let address: std::net::Ipv4Addr = token.parse().ok()?;
            (!address.is_loopback() && !address.is_unspecified()).then(|| "ADDRESS".to_owned())
        },
    )
}

/// Runs of eight and more hex digits; the same digits get the same name.
fn hashes(text: &str) -> String {
    let mut seen: Vec<String> = Vec::new();
    replace_tokens(
        text,
        |c| c.is_ascii_alphanumeric() || c == '_',
        |token| {
            let hex = token.len() >= 8 && token.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
            if !hex {
                return None;
            }
            // The short form of a hash and the long one are one thing.
            let at = seen.iter().position(|one| one.starts_with(token) || token.starts_with(one.as_str()));
            let at = at.unwrap_or_else(|| {
                seen.push(token.to_owned());
                seen.len() - 1
            });
            Some(format!("HEX{}", at + 1))
        },
    )
}

/// Replaces maximal runs of characters of a kind.
fn replace_tokens(text: &str, kind: impl Fn(char) -> bool, mut replace: impl FnMut(&str) -> Option<String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(&kind) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !kind(c)).unwrap_or(from.len());
        let (token, after) = from.split_at(end);
        result.push_str(before);
        match replace(token) {
            Some(name) => result.push_str(&name),
            None => result.push_str(token),
        }
        rest = after;
    }
    result.push_str(rest);
    result
}

#[test]
fn what_differs_from_run_to_run_is_replaced() {
    let text = hashes("a-1-0123abcd a-2-89abcdef 0123abcd4567 (17 ms) deadline");
    assert_eq!(text, "a-1-HEX1 a-2-HEX2 HEX1 (17 ms) deadline");
    assert_eq!(addresses("server 10.1.2.3:80; 127.0.0.1 0.0.0.0 1.5"), "server ADDRESS:80; 127.0.0.1 0.0.0.0 1.5");
    assert_eq!(replace_number("listen 21000; 210001", 21000, "LISTEN"), "listen LISTEN; 210001");
}
