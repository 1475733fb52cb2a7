//! Says which name was probably meant, wherever a person mistyped one.

/// The name among the known ones that was probably meant; none if all are far off.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name.to_lowercase(), candidate), candidate))
        .filter(|(distance, _)| *distance <= limit && *distance < length)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?` if a known name is near, else the list of those that are known.
pub(crate) fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, what: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None if known.is_empty() => format!("{what}: none"),
        None => format!("{what}: {}", list(&known)),
    }
}

/// `a`, `b` and `c`, each in backticks.
pub(crate) fn list(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_name_is_suggested() {
        assert_eq!(nearest("backnd", ["backend", "plugin_dirs"]), Some("backend"));
        assert_eq!(nearest("Lanes", ["lanes"]), Some("lanes"));
        assert_eq!(nearest("a", ["b"]), None);
        assert_eq!(nearest("journal", ["redis", "worker"]), None);
        assert_eq!(suggest("journal", ["redis", "worker"], "known keys"), "known keys: `redis` and `worker`");
    }
}
