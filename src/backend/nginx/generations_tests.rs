//! Generations on disk: what is written, read back, damaged, refused, switched and cleaned.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

fn id(number: u32) -> GenerationId {
    GenerationId { hash: "abcdef012345".to_owned(), number }
}

fn new(number: u32) -> NewGeneration {
    let files = [("reeve.conf", "include x;\n"), ("files/upstream-a.conf", "upstream a { }\n")];
    NewGeneration {
        id: id(number),
        manifest: Manifest { owner: "shop@edge-1".to_owned(), template: "t".to_owned(), ..Manifest::default() },
        files: files.map(|(name, text)| (name.to_owned(), Arc::from(text))).into(),
        template: Arc::from("t"),
    }
}

struct Place {
    _folder: tempfile::TempDir,
    generations: Generations,
    files: Files,
    manifests: Manifests,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let generations = Generations::new(folder.path().to_owned());
        Self { _folder: folder, generations, files: Files::default(), manifests: Manifests::new() }
    }

    fn checked(number: u32) -> Self {
        let place = Self::new();
        place.generations.write(&new(number)).expect("written");
        place.generations.mark_checked(&id(number)).expect("marked");
        place
    }

    fn read(&mut self, number: u32) -> Option<Found> {
        self.generations.read(&id(number), true, &mut self.files, &mut self.manifests).expect("readable")
    }

    fn generation(&mut self, number: u32) -> Generation {
        match self.read(number) {
            Some(Found::Complete(generation, _)) => *generation,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_written_is_read_back_undamaged_after_the_check() {
    let mut place = Place::new();
    assert!(place.read(1).is_none());
    assert_eq!(place.generations.ids(), Ok(BTreeSet::new()), "a missing folder holds none");
    place.generations.write(&new(1)).expect("written");
    assert!(matches!(place.read(1), Some(Found::Unchecked)), "a crash before the check must leave nothing to trust");
    place.generations.mark_checked(&id(1)).expect("marked");
    let generation = place.generation(1);
    assert_eq!(generation.damaged, Vec::<String>::new());
    assert_eq!(&*generation.files["reeve.conf"], "include x;\n");
    assert_eq!(generation.manifest.owner, "shop@edge-1");
    assert_eq!(generation.rejected, None);
    assert_eq!(place.generations.ids(), Ok(BTreeSet::from([id(1)])));
}

#[test]
fn an_edited_a_missing_and_an_added_file_are_damage() {
    let mut place = Place::checked(1);
    let folder = place.generations.path(&id(1));
    fs::write(folder.join("reeve.conf"), "include y;\n").expect("edited");
    assert_eq!(place.generation(1).damaged, ["reeve.conf"]);
    assert_eq!(&*place.generation(1).files["reeve.conf"], "include y;\n", "the present text is what a plan shows");
    fs::remove_file(folder.join("files/upstream-a.conf")).expect("removed");
    assert_eq!(place.generation(1).damaged, ["files/upstream-a.conf", "reeve.conf"]);
    fs::write(folder.join("files/other.conf"), "").expect("added");
    fs::create_dir(folder.join("more")).expect("added");
    assert_eq!(place.generation(1).damaged, ["files/upstream-a.conf", "reeve.conf", "files/other.conf", "more"]);
}

#[test]
fn a_manifest_that_was_edited_is_not_believed() {
    let mut place = Place::checked(1);
    let path = place.generations.path(&id(1)).join(MANIFEST_FILE);
    let text = fs::read_to_string(&path).expect("there");
    fs::write(&path, text.replace("shop@edge-1", "blog@edge-1")).expect("edited");
    let generation = place.generation(1);
    assert_eq!(generation.damaged, [MANIFEST_FILE]);
    assert_eq!(*generation.manifest, Manifest::default());
    fs::remove_file(&path).expect("removed");
    assert_eq!(place.generation(1).damaged, [MANIFEST_FILE]);
}

#[test]
fn a_refusal_holds_until_its_surroundings_change() {
    let mut place = Place::new();
    place.generations.write(&new(1)).expect("written");
    let at: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let message = "nginx: [emerg] no\nmore".to_owned();
    let mut rejection = Rejection { message, surroundings: "abc".to_owned(), at, stage: Stage::Check };
    for stage in [Stage::Check, Stage::Load, Stage::Start] {
        rejection.stage = stage;
        place.generations.mark_rejected(&id(1), &rejection).expect("marked");
        let Some(Found::Complete(generation, Some(read))) = place.read(1) else { panic!("not rejected") };
        let seen = generation.rejected.expect("rejected");
        assert_eq!((seen.message.as_str(), seen.stage), ("nginx: [emerg] no\nmore", stage));
        assert_eq!(generation.damaged, Vec::<String>::new());
        assert_eq!(read, rejection);
        assert!(read.holds("abc") && !read.holds("def"));
    }
}

#[test]
fn current_is_switched_as_a_link_and_never_over_a_folder() {
    let place = Place::checked(1);
    assert_eq!(place.generations.current(), Ok(None));
    place.generations.switch(&id(1)).expect("switched");
    assert_eq!(place.generations.current(), Ok(Some(id(1))));
    assert_eq!(fs::read_to_string(place.generations.entry()).expect("there"), "include x;\n");
    place.generations.switch(&id(2)).expect("switched");
    assert_eq!(place.generations.current(), Ok(Some(id(2))));
    fs::remove_file(place.generations.link()).expect("removed");
    symlink("/elsewhere/abcdef012345-1", place.generations.link()).expect("linked");
    assert_eq!(place.generations.current(), Ok(None), "a link to somewhere else is not ours");
    fs::remove_file(place.generations.link()).expect("removed");
    fs::create_dir(place.generations.link()).expect("made");
    assert_eq!(place.generations.current(), Ok(None));
    assert!(place.generations.switch(&id(1)).expect_err("a folder").contains("move it away"));
}

/// With very many files, of which one may have another text than the last time.
fn large(number: u32, changed: &str) -> NewGeneration {
    let mut large = new(number);
    for file in 0..40 {
        let name = format!("files/upstream-{file}.conf");
        let text = format!("upstream u{file} {{ server 127.0.0.1:{}; }}\n", if name == changed { 2 } else { 1 });
        large.files.insert(name, text.into());
    }
    large
}

#[test]
fn a_generation_takes_over_what_is_the_same_in_a_removed_one_and_only_that() {
    let mut place = Place::new();
    place.generations.write(&large(1, "")).expect("written");
    let inode = |path: PathBuf| fs::symlink_metadata(path).expect("there").ino();
    let file = |number: u32, file: usize| format!("abcdef012345-{number}/files/upstream-{file}.conf");
    let folder = place.generations.folder();
    // Held open, so that no new file gets the number of an old one.
    let open = |at| fs::File::open(folder.join(file(1, at))).expect("there");
    let before: Vec<fs::File> = (0..40).map(open).collect();
    let inode_before = |at: usize| before[at].metadata().expect("open").ino();
    fs::write(folder.join("abcdef012345-1").join(SECRET_FILE), "secret").expect("written");
    place.generations.remove(&id(1)).expect("removed");
    assert!(place.read(1).is_none());
    let kept = folder.join(".spare");
    assert_eq!(fs::read_dir(&kept).expect("kept").count(), 1, "nothing but `files`: neither a secret nor a manifest");
    place.generations.clean().expect("cleaned");

    let path = |at: usize| kept.join(format!("files/upstream-{at}.conf"));
    let same_length = fs::read_to_string(path(1)).expect("there").replace("127", "128");
    fs::write(path(1), same_length).expect("edited");
    fs::rename(path(2), folder.join("elsewhere")).expect("moved");
    symlink("../../elsewhere", path(2)).expect("linked");
    fs::set_permissions(path(3), fs::Permissions::from_mode(0o666)).expect("opened to all");
    fs::hard_link(path(4), folder.join("another-name")).expect("linked");
    fs::remove_file(path(5)).expect("removed");
    fs::create_dir(path(5)).expect("made");
    fs::write(path(5).join("x"), "").expect("added");
    fs::write(kept.join("files/stranger.conf"), "").expect("added");
    fs::remove_file(path(6)).expect("removed");

    let new = large(2, "files/upstream-0.conf");
    place.generations.write(&new).expect("written");
    place.generations.mark_checked(&id(2)).expect("marked");
    let generation = place.generation(2);
    assert_eq!(generation.damaged, Vec::<String>::new());
    assert_eq!(generation.files, new.files);
    let taken: Vec<usize> = (0..40).filter(|at| inode(folder.join(file(2, *at))) == inode_before(*at)).collect();
    assert_eq!(taken, (7..40).collect::<Vec<_>>(), "all that nobody has touched, and that did not change");
    assert!(fs::symlink_metadata(&kept).is_err(), "it is used once");
}

#[test]
fn a_removed_generation_that_is_of_no_use_is_in_nobodys_way() {
    let mut place = Place::checked(1);
    place.generations.remove(&id(1)).expect("removed");
    assert_eq!(fs::read_dir(place.generations.folder()).expect("there").count(), 0, "of few files nothing is kept");
    let kept = place.generations.folder().join(".spare");
    fs::write(&kept, "no folder").expect("written");
    place.generations.write(&large(2, "")).expect("written");
    place.generations.mark_checked(&id(2)).expect("marked");
    assert_eq!(place.generation(2).damaged, Vec::<String>::new());
    fs::create_dir_all(kept.join("no-files")).expect("made");
    place.generations.remove(&id(2)).expect("removed");
    place.generations.write(&large(3, "")).expect("written");
    place.generations.mark_checked(&id(3)).expect("marked");
    assert_eq!(place.generation(3).files, large(3, "").files);
}

#[test]
fn what_is_behind_a_link_in_a_generation_is_never_touched() {
    let mut place = Place::new();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let theirs = elsewhere.path().join("files");
    fs::create_dir(&theirs).expect("made");
    (0..40).for_each(|file| fs::write(theirs.join(file.to_string()), "theirs").expect("written"));
    let kept = place.generations.folder().join(".spare");
    // In the place of the files, of the generation, of what is kept, and of the files in it.
    for number in 1..=4 {
        place.generations.write(&large(number, "")).expect("written");
        place.generations.mark_checked(&id(number)).expect("marked");
        assert_eq!(place.generation(number).files, large(number, "").files);
        let folder = place.generations.path(&id(number));
        let (path, target) = match number {
            1 => (folder.join("files"), theirs.as_path()),
            2 => (folder.clone(), elsewhere.path()),
            3 => (kept.clone(), elsewhere.path()),
            _ => (kept.join("files"), theirs.as_path()),
        };
        if number > 2 {
            place.generations.remove(&id(number)).expect("removed");
        }
        fs::remove_dir_all(&path).expect("removed");
        symlink(target, &path).expect("linked");
        place.generations.remove(&id(number)).expect("removed");
    }
    place.generations.write(&large(5, "")).expect("written");
    place.generations.mark_checked(&id(5)).expect("marked");
    assert_eq!(place.generation(5).files, large(5, "").files);
    assert_eq!(fs::read_dir(&theirs).expect("there").count(), 40);
    assert_eq!(fs::read_dir(elsewhere.path()).expect("there").count(), 1);
}

#[test]
fn what_a_crash_left_is_cleaned_and_nothing_else() {
    let mut place = Place::checked(1);
    place.generations.write(&new(2)).expect("written");
    let folder = place.generations.folder();
    for name in [".new-abcdef012345-3", ".removed-abcdef012345-4", "somebody-elses"] {
        fs::create_dir(folder.join(name)).expect("made");
    }
    place.generations.clean().expect("cleaned");
    let mut left: Vec<_> = fs::read_dir(&folder).expect("there").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["abcdef012345-1", "somebody-elses"]);
    assert_eq!(place.generation(1).damaged, Vec::<String>::new());
    place.generations.remove(&id(1)).expect("removed");
    place.generations.remove(&id(1)).expect("gone already");
    assert!(place.read(1).is_none());
}
