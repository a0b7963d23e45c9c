//! The directory of a route: the file for a path, its form and its fields.
//!
//! A path that ends with a slash names the directory's index; a directory without the slash is answered with
//! a redirect. Precompressed forms (`app.js.br` beside `app.js`) are chosen by `Accept-Encoding`. There are
//! no listings.

pub(crate) mod chosen;
pub(crate) mod kind;
pub(crate) mod small_file_cache;
use super::{
    answer::FileFacts,
    path::RelativePath,
    root::{DiskWait, FileRoot, OpenError, OpenFile, PathEntry},
    window,
};
use crate::config::{ContentCoding, FilesConfig, ImmutableRule};
use chosen::{ChosenFile, FileSource};
use small_file_cache::{FileKey, SmallFileCache};

use http::{header, HeaderValue};
use std::{sync::Arc, time::Instant};

/// The largest file, in bytes, that is read at once and kept in memory for a moment.
pub(crate) const SMALL_FILE: u64 = 64 * 1024;

/// The codings that a client accepts, by its preference.
pub(crate) type RankedCodings = [Option<ContentCoding>; 3];

/// `Cache-Control` for a name that holds its content's hash: such a file never changes.
const IMMUTABLE_PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// The same for files that need a token.
const IMMUTABLE_PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// A directory whose files a route serves.
#[derive(Debug)]
pub(crate) struct Directory {
    root: FileRoot,
    rules: FilesConfig,
    /// True if the files need a token.
    private: bool,
    shelf: SmallFileCache,
}

/// The answer for a path.
#[derive(Debug)]
pub(crate) enum DirectoryAnswer {
    /// Send a file.
    File(Arc<ChosenFile>),
    /// Redirect to the same path with a slash at its end.
    Slash,
}

impl Directory {
    /// The directory with these rules. `private`: the route requires a token.
    pub(crate) fn new(rules: FilesConfig, private: bool) -> Self {
        Self {
            root: FileRoot::new(rules.root.clone(), rules.symlinks),
            rules,
            private,
            shelf: SmallFileCache::new(),
        }
    }

    /// Returns true if names that begin with a dot are sent.
    pub(crate) fn hidden(&self) -> bool {
        self.rules.hidden
    }

    /// Finds the answer for a path and a client that accepts these codings (by its preference). It may be the
    /// answer from a moment ago. Waits for the disk on another thread.
    ///
    /// # Errors
    /// If there is no file that may be sent.
    pub(crate) async fn find(
        self: &Arc<Self>,
        path: RelativePath,
        ranked: RankedCodings,
    ) -> Result<DirectoryAnswer, OpenError> {
        let (now, key) = (Instant::now(), FileKey { path, ranked });
        if let Some(kept) = self.shelf.find(&key, now) {
            return Ok(DirectoryAnswer::File(kept));
        }
        let found = match self.look(&key.path, ranked, DiskWait::None) {
            Err(OpenError::NotNow) => {
                let (directory, path) = (self.clone(), key.path.clone());
                let looking =
                    tokio::task::spawn_blocking(move || directory.look(&path, ranked, DiskWait::Any));
                looking.await.unwrap_or_else(|error| Err(OpenError::Io(error.into())))
            }
            found => found,
        }?;
        if let DirectoryAnswer::File(chosen) = &found {
            if matches!(chosen.source, FileSource::Here(_)) {
                self.shelf.keep(key, chosen, now);
            }
        }
        Ok(found)
    }

    fn look(
        &self,
        path: &RelativePath,
        ranked: RankedCodings,
        patience: DiskWait,
    ) -> Result<DirectoryAnswer, OpenError> {
        let file = |path: &str| {
            self.file(path, ranked, patience).map(|chosen| DirectoryAnswer::File(Arc::new(chosen)))
        };
        if path.is_directory() {
            return file(&path.child(&self.rules.index));
        }
        match file(path.as_str()) {
            Err(OpenError::Directory) => {
                // Redirect only if there is an index: the existence of a directory is not revealed.
                self.plain(&path.child(&self.rules.index), patience)?;
                Ok(DirectoryAnswer::Slash)
            }
            found => found,
        }
    }

    fn file(&self, path: &str, ranked: RankedCodings, patience: DiskWait) -> Result<ChosenFile, OpenError> {
        let plain = self.plain(path, patience)?;
        let kind = kind::content_type(path);
        let varies = self.rules.precompressed && kind::may_be_encoded(&kind);
        let other = if varies { self.encoded(path, ranked, patience)? } else { None };
        let mut fields = vec![(header::CONTENT_TYPE, kind)];
        let (opened, suffix) = match other {
            Some((coding, opened)) => {
                fields.push((header::CONTENT_ENCODING, HeaderValue::from_static(coding.token())));
                (opened, coding.etag_suffix())
            }
            None => (plain, ""),
        };
        if varies {
            fields.push((header::VARY, HeaderValue::from_static("Accept-Encoding")));
        }
        fields.push((header::CACHE_CONTROL, self.cache_control(path)));
        let stamp = opened.stamp;
        let here = if stamp.length <= SMALL_FILE { opened.whole(patience)? } else { None };
        let facts = match &here {
            Some(content) => FileFacts::of_content(content, &stamp, suffix),
            None => FileFacts::of_file(&stamp, suffix),
        };
        Ok(ChosenFile { source: here.map_or(FileSource::File(opened), FileSource::Here), facts, fields })
    }

    fn plain(&self, path: &str, patience: DiskWait) -> Result<Arc<OpenFile>, OpenError> {
        match self.root.open_at(path, patience)? {
            PathEntry::File(opened) => Ok(opened),
            PathEntry::Directory => Err(OpenError::Directory),
        }
    }

    /// The precompressed form that the client prefers.
    fn encoded(
        &self,
        path: &str,
        ranked: RankedCodings,
        patience: DiskWait,
    ) -> Result<Option<(ContentCoding, Arc<OpenFile>)>, OpenError> {
        for coding in ranked.into_iter().flatten() {
            match self.plain(&format!("{path}.{}", coding_extension(coding)), patience) {
                Ok(opened) if is_for_everyone(coding, &opened, patience)? => {
                    return Ok(Some((coding, opened)))
                }
                Ok(_) => tracing::debug!(
                    path,
                    ?coding,
                    "a precompressed file needs a larger window than every client has, and is not sent"
                ),
                Err(OpenError::NotNow) => return Err(OpenError::NotNow),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn cache_control(&self, path: &str) -> HeaderValue {
        let never_changes = match &self.rules.immutable {
            ImmutableRule::Nothing => false,
            ImmutableRule::Hashed => kind::is_hashed(path),
            ImmutableRule::Matching(globs) => globs.is_match(path),
        };
        match (never_changes, self.private) {
            (false, _) => self.rules.cache_control.clone(),
            (true, false) => IMMUTABLE_PUBLIC,
            (true, true) => IMMUTABLE_PRIVATE,
        }
    }
}

/// Returns true if every client that accepts a coding can decode this file.
fn is_for_everyone(coding: ContentCoding, opened: &OpenFile, patience: DiskWait) -> Result<bool, OpenError> {
    let mut begin = [0; window::INSPECTED_BYTES];
    let read = opened.beginning(&mut begin, patience)?;
    Ok(window::is_for_everyone(coding, &begin[..read]))
}

/// The file name extension of a coding.
fn coding_extension(coding: ContentCoding) -> &'static str {
    match coding {
        ContentCoding::Brotli => "br",
        ContentCoding::Zstd => "zst",
        ContentCoding::Gzip => "gz",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{files::path::relative_path, representation::encoding::rank_codings};

    use globset::{GlobBuilder, GlobSetBuilder};
    use std::fs;
    use tempfile::TempDir;

    fn rules(dir: &TempDir) -> FilesConfig {
        FilesConfig {
            root: dir.path().to_owned(),
            index: "index.html".to_owned(),
            precompressed: true,
            symlinks: false,
            hidden: false,
            cache_control: HeaderValue::from_static("no-cache"),
            immutable: ImmutableRule::Nothing,
        }
    }

    fn tree() -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("docs")).unwrap();
        fs::create_dir_all(dir.path().join("bare")).unwrap();
        for name in [
            "index.html",
            "docs/index.html",
            "app.js",
            "app.js.br",
            "app.js.gz",
            "photo.png",
            "photo.png.gz",
            "app.3f2a91bc.js",
            "only.css.gz",
        ] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    fn accepted(text: &str) -> RankedCodings {
        let prefer = [ContentCoding::Brotli, ContentCoding::Zstd, ContentCoding::Gzip];
        rank_codings(Some(text.as_bytes()).filter(|text| !text.is_empty()), &prefer)
    }

    fn look(directory: &Directory, path: &str, encodings: &str) -> Result<DirectoryAnswer, OpenError> {
        directory.look(&relative_path(path.as_bytes(), false).unwrap(), accepted(encodings), DiskWait::Any)
    }

    /// The fields of the file that answers.
    fn told(directory: &Directory, path: &str, encodings: &str) -> Vec<String> {
        let Ok(DirectoryAnswer::File(chosen)) = look(directory, path, encodings) else {
            panic!("no file for {path}")
        };
        let text =
            |(name, value): &(http::HeaderName, HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        chosen.fields.iter().map(text).collect()
    }

    #[test]
    fn directories_have_an_index_and_need_a_slash() {
        let dir = tree();
        let directory = Directory::new(rules(&dir), false);
        for path in ["", "docs/", "docs/index.html"] {
            assert!(matches!(look(&directory, path, ""), Ok(DirectoryAnswer::File(_))), "{path}");
        }
        assert!(matches!(look(&directory, "docs", ""), Ok(DirectoryAnswer::Slash)));
        for path in ["bare", "bare/", "nothing", "nothing/", "app.js/", "only.css"] {
            assert!(matches!(look(&directory, path, "gzip"), Err(OpenError::NotFound)), "{path}");
        }
    }

    #[test]
    fn the_form_that_the_client_likes_best() {
        let dir = tree();
        let directory = Directory::new(rules(&dir), false);
        for (encodings, coding) in [
            ("", None),
            ("identity", None),
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip, zstd", Some("gzip")),
            ("br;q=0.5, gzip", Some("gzip")),
            ("br;q=0", None),
            ("zstd", None),
            ("*", Some("br")),
        ] {
            let told = told(&directory, "app.js", encodings);
            let expected = coding.map(|coding| format!("content-encoding: {coding}"));
            assert_eq!(
                told.iter().find(|f| f.starts_with("content-encoding")),
                expected.as_ref(),
                "{encodings}"
            );
            assert!(told.contains(&"vary: Accept-Encoding".to_owned()), "{encodings}");
            assert!(told.contains(&"content-type: text/javascript; charset=utf-8".to_owned()), "{encodings}");
        }
        // A compressed type is not looked for in another form, and nothing is with `precompressed = false`.
        assert_eq!(
            told(&directory, "photo.png", "gzip"),
            ["content-type: image/png", "cache-control: no-cache"]
        );
        let never = Directory::new(FilesConfig { precompressed: false, ..rules(&dir) }, false);
        assert!(!told(&never, "app.js", "br").iter().any(|field| field.starts_with("vary")));
        // Requested by its own name it is a file like any other.
        assert_eq!(told(&directory, "app.js.gz", "gzip")[0], "content-type: application/gzip");
    }

    #[test]
    fn forms_have_tags_of_their_own() {
        let dir = tree();
        let directory = Directory::new(rules(&dir), false);
        let tag = |encodings: &str| match look(&directory, "app.js", encodings) {
            Ok(DirectoryAnswer::File(chosen)) => chosen.facts.etag.clone(),
            other => panic!("{other:?}"),
        };
        assert_ne!(tag(""), tag("br"));
        assert!(tag("br").to_str().unwrap().ends_with("-br\""));
    }

    #[test]
    fn what_never_changes_says_so() {
        let dir = tree();
        let last =
            |rules, private, path: &str| told(&Directory::new(rules, private), path, "").pop().unwrap();
        let hashed = || FilesConfig { immutable: ImmutableRule::Hashed, ..rules(&dir) };
        assert_eq!(last(hashed(), false, "app.js"), "cache-control: no-cache");
        let never = "max-age=31536000, immutable";
        assert_eq!(last(hashed(), false, "app.3f2a91bc.js"), format!("cache-control: public, {never}"));
        assert_eq!(last(hashed(), true, "app.3f2a91bc.js"), format!("cache-control: private, {never}"));
        let glob = GlobBuilder::new("docs/*").literal_separator(true).build().unwrap();
        let globs = GlobSetBuilder::new().add(glob).build().unwrap();
        let matching = || FilesConfig { immutable: ImmutableRule::Matching(globs.clone()), ..rules(&dir) };
        assert_eq!(last(matching(), false, "docs/"), format!("cache-control: public, {never}"));
        assert_eq!(last(matching(), false, "app.3f2a91bc.js"), "cache-control: no-cache");
    }

    #[tokio::test]
    async fn what_is_on_disk_is_found_as_well() {
        let dir = tree();
        let directory = Arc::new(Directory::new(rules(&dir), false));
        let path = relative_path(b"app.js", false).unwrap();
        let found = directory.find(path, accepted("br")).await;
        assert!(matches!(found, Ok(DirectoryAnswer::File(_))), "{found:?}");
    }

    #[tokio::test]
    async fn small_files_are_kept_and_no_other() {
        let dir = tree();
        fs::write(dir.path().join("large"), vec![1; SMALL_FILE as usize + 1]).unwrap();
        let directory = Arc::new(Directory::new(rules(&dir), false));
        let find = |path: &'static str| {
            let directory = directory.clone();
            async move {
                match directory.find(relative_path(path.as_bytes(), false).unwrap(), accepted("")).await {
                    Ok(DirectoryAnswer::File(chosen)) => chosen,
                    other => panic!("{other:?}"),
                }
            }
        };
        let (first, again) = (find("app.js").await, find("app.js").await);
        assert!(Arc::ptr_eq(&first, &again));
        assert!(matches!(&first.source, FileSource::Here(content) if content == "app.js"));
        let (first, again) = (find("large").await, find("large").await);
        assert!(!Arc::ptr_eq(&first, &again) && matches!(first.source, FileSource::File(_)));
        // A moment later it is read again.
        let key = FileKey { path: relative_path(b"app.js", false).unwrap(), ranked: accepted("") };
        assert!(directory.shelf.find(&key, Instant::now()).is_some());
        assert!(directory.shelf.find(&key, Instant::now() + std::time::Duration::from_secs(1)).is_none());
    }
}
