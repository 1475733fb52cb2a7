//! The files of the repository, read once.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// Directories that are made by tools, or belong to them.
const NOT_OURS: [&str; 4] = ["target", ".git", ".idea", ".vscode"];

/// What was frozen stays as it is, whatever rules come later; see docs/plugin-compatibility.md.
const FROZEN: &str = "tests/fixtures/1.0.0/";

/// A file of the repository.
pub(crate) struct File {
    /// From the top of the repository, with `/`.
    pub(crate) path: String,
    /// Empty if it is no text.
    pub(crate) text: String,
}

/// Every file, sorted by path.
pub(crate) fn files() -> &'static [File] {
    static FILES: OnceLock<Vec<File>> = OnceLock::new();
    FILES.get_or_init(|| {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the repository");
        let mut files = Vec::new();
        collect(top, "", &mut files);
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files
    })
}

/// Every file whose name ends so.
pub(crate) fn with_extension(extension: &str) -> impl Iterator<Item = &'static File> {
    files().iter().filter(move |file| file.path.ends_with(extension))
}

/// The text of a file that must be there.
pub(crate) fn text(path: &str) -> &'static str {
    let file = files().iter().find(|file| file.path == path);
    &file.unwrap_or_else(|| panic!("there is no `{path}`; the tidy test reads it")).text
}

fn collect(directory: &Path, prefix: &str, files: &mut Vec<File>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("cannot read `{prefix}`: {error}"));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("cannot read `{prefix}`: {error}"));
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().unwrap_or_else(|error| panic!("cannot read `{prefix}{name}`: {error}"));
        if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) && format!("{prefix}{name}/") != FROZEN {
            collect(&entry.path(), &format!("{prefix}{name}/"), files);
        } else if kind.is_file() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            files.push(File { path: format!("{prefix}{name}"), text });
        }
    }
}
