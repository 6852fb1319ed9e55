//! Patterns of nginx's `include`, as the C library's `glob` expands them: `*`, `?`, `[a-z]`, sorted, no hidden files.

use std::path::{Component, Path, PathBuf};

/// The files that a pattern means; a path without a pattern means itself, also when it does not exist.
pub fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let Component::Normal(name) = component else {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        };
        let name = name.to_string_lossy();
        if !is_pattern(&name) {
            found.iter_mut().for_each(|path| path.push(name.as_ref()));
            continue;
        }
        let mut next = Vec::new();
        for folder in found {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let mut names: Vec<String> =
                entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.retain(|candidate| matches(&name, candidate));
            names.sort_unstable();
            next.extend(names.into_iter().map(|name| folder.join(name)));
        }
        found = next;
    }
    found
}

pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Does a file's name match? A leading dot must be written.
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where to go on after the last `*` when the rest does not fit: the star then takes one more character.
    let mut retry: Option<(usize, usize)> = None;
    let (mut at, mut index) = (0, 0);
    while index < name.len() {
        let step = match pattern.get(at) {
            Some('*') => {
                retry = Some((at + 1, index + 1));
                at += 1;
                continue;
            }
            Some('?') => Some(at + 1),
            Some('[') => class(&pattern, at, name[index]),
            Some('\\') => (pattern.get(at + 1) == Some(&name[index])).then_some(at + 2),
            Some(character) => (*character == name[index]).then_some(at + 1),
            None => None,
        };
        match (step, retry) {
            (Some(next), _) => {
                at = next;
                index += 1;
            }
            (None, Some((star, from))) => {
                at = star;
                index = from;
                retry = Some((star, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|character| *character == '*')
}

/// `[abc]`, `[a-z]`, `[!a]`: the place behind it when the character fits. An unclosed bracket stands for itself.
fn class(pattern: &[char], at: usize, character: char) -> Option<usize> {
    let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
    let first = at + 1 + usize::from(negated);
    let Some(close) = (first + 1..pattern.len()).find(|index| pattern[*index] == ']') else {
        return (character == '[').then_some(at + 1);
    };
    let set = &pattern[first..close];
    let mut fits = false;
    let mut index = 0;
    while index < set.len() {
        if set.get(index + 1) == Some(&'-') && index + 2 < set.len() {
            fits |= (set[index]..=set[index + 2]).contains(&character);
            index += 3;
        } else {
            fits |= set[index] == character;
            index += 1;
        }
    }
    (fits != negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_a_shell() {
        for (pattern, name) in [
            ("*.conf", "a.conf"),
            ("*", "a"),
            ("a*b*c", "aXbYbZc"),
            ("?.c", "x.c"),
            ("[a-c]1", "b1"),
            ("[!a]", "b"),
            (".*", ".a"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.conf", "a.conf~"), ("*", ".hidden"), ("?", ""), ("[a-c]", "d"), ("[!a]", "a"), ("a*b", "ac")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_expands_sorted_and_a_plain_path_is_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.conf", "a.conf", "c.txt", ".d.conf"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let found = expand(&folder.path().join("*.conf"));
        assert_eq!(found, [folder.path().join("a.conf"), folder.path().join("b.conf")]);
        assert_eq!(expand(Path::new("/no/such")), [Path::new("/no/such")]);
    }
}
