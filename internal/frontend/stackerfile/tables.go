// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

// The tables of the language. Their order is the one in which the formatter
// writes keys.

var configFields = []field[File]{
	{"prerequisites", "Build files that must be built before this one, relative to this file.", listOf(nonEmpty), func(d *decoder, f *File, v *node) {
		for _, item := range d.list(v, "prerequisites") {
			if path, ok := d.path(item, "prerequisites"); ok {
				f.Prerequisites = append(f.Prerequisites, Prerequisite{Pos: d.src.at(item), Path: absolute(f.Dir, path), Text: path})
			}
		}
	}},
}

// stageFields are the keys of a stage.
var stageFields = []field[Stage]{
	{"from", "The base that the image starts from.", define("from"), func(d *decoder, s *Stage, v *node) { s.From = d.from(v) }},
	{"os", "Operating system of the image and of the base that is chosen from an index. Default: the base's.", nonEmpty, func(d *decoder, s *Stage, v *node) {
		s.OS = d.platform(v, "os")
	}},
	{"arch", "Architecture of the image and of the base that is chosen from an index. Default: the base's.", nonEmpty, func(d *decoder, s *Stage, v *node) {
		s.Arch = d.platform(v, "arch")
	}},
	{"build_only", "The stage becomes no image: it is there for other stages.", truth, func(d *decoder, s *Stage, v *node) {
		s.BuildOnly = d.truth(v, "build_only")
	}},
	{"imports", "Files and directories from outside: seen by run in /stacker/imports, or put into the image at dest.", define("imports"), func(d *decoder, s *Stage, v *node) {
		s.Imports = append(s.Imports, d.imports(v, "imports")...)
	}},
	{"import", "Deprecated form of imports: the files are seen in /stacker.", deprecated(define("imports")), func(d *decoder, s *Stage, v *node) {
		s.Imports = append(s.Imports, d.imports(v, "import")...)
		s.LegacyImport = true
	}},
	{"overlay_dirs", "Local directories, each of which becomes a layer of the image.", listOf(define("overlay_dir")), func(d *decoder, s *Stage, v *node) {
		s.OverlayDirs = d.overlayDirs(v)
	}},
	{"binds", "Paths of this machine that run sees and can write to.", listOf(define("bind")), func(d *decoder, s *Stage, v *node) {
		s.Binds = d.binds(v)
	}},
	{"build_env", "Environment of run. Empty values are left out.", mapOfTexts, func(d *decoder, s *Stage, v *node) {
		for _, kv := range d.variables(v, "build_env") {
			if kv.Value != "" {
				s.BuildEnv = append(s.BuildEnv, kv)
			}
		}
	}},
	{"build_env_passthrough", "Regular expressions for the names of the caller's variables that run gets, in place of the default ones.", listOf(text), func(d *decoder, s *Stage, v *node) {
		s.BuildEnvPassthrough = d.passthrough(v)
	}},
	{"run", "The script that changes the root file system. Texts of a list are joined by line breaks.", script, func(d *decoder, s *Stage, v *node) {
		s.Run = d.run(v, "run")
	}},
	{"generate_labels", "A script that runs after the build in a copy of the stage: each file in /stacker/oci-labels becomes a label.", script, func(d *decoder, s *Stage, v *node) {
		s.GenerateLabels = d.run(v, "generate_labels")
	}},
	{"bom", "Asks for a bill of materials.", either(define("bom"), nothing), func(d *decoder, s *Stage, v *node) { s.Bom = d.bom(v) }},
	{"environment", "Environment of the image: variables are added to the base's.", mapOfTexts, func(d *decoder, s *Stage, v *node) {
		s.Environment = d.variables(v, "environment")
	}},
	{"entrypoint", "Entrypoint of the image: a list, or a text that is split as a shell does. Clears the base's cmd.", command, func(d *decoder, s *Stage, v *node) {
		s.Entrypoint = d.command(v, "entrypoint")
	}},
	{"cmd", "Command of the image: a list, or a text that is split as a shell does.", command, func(d *decoder, s *Stage, v *node) {
		s.Cmd = d.command(v, "cmd")
	}},
	{"full_command", "Entrypoint of the image; cmd is cleared.", command, func(d *decoder, s *Stage, v *node) {
		s.FullCommand = d.command(v, "full_command")
	}},
	{"working_dir", "Working directory of the image.", text, func(d *decoder, s *Stage, v *node) {
		s.WorkingDir, _ = d.text(v, "working_dir")
	}},
	{"runtime_user", "User of the image.", text, func(d *decoder, s *Stage, v *node) {
		s.RuntimeUser, _ = d.text(v, "runtime_user")
	}},
	{"volumes", "Volumes of the image, added to the base's.", listOf(text), func(d *decoder, s *Stage, v *node) {
		s.Volumes = d.texts(v, "volumes")
	}},
	{"labels", "Labels of the image's configuration, added to the base's.", mapOfTexts, func(d *decoder, s *Stage, v *node) {
		s.Labels = d.kvs(v, "labels")
	}},
	{"annotations", "Annotations of the image's manifest, added to the base's.", mapOfTexts, func(d *decoder, s *Stage, v *node) {
		s.Annotations = d.kvs(v, "annotations")
	}},
	// Never meant for users, but files may have them.
	{"was_legacy_import", "", truth, func(d *decoder, _ *Stage, v *node) { d.truth(v, "was_legacy_import") }},
	{"was_bom", "", truth, func(d *decoder, _ *Stage, v *node) { d.truth(v, "was_bom") }},
}

var fromFields = []field[From]{
	{"type", "Kind of the base.", oneOf(fromTypes...), func(d *decoder, f *From, v *node) { f.Type, _ = d.text(v, "type") }},
	{"url", "The base: docker://HOST/REPOSITORY:TAG@DIGEST or the name of a local image, DIRECTORY:TAG of an OCI layout, or the path or URL of an archive.", text, func(d *decoder, f *From, v *node) {
		f.URL, _ = d.text(v, "url")
	}},
	{"tag", "Name of the stage that is the base (type built).", text, func(d *decoder, f *From, v *node) { f.Tag, _ = d.text(v, "tag") }},
	{"insecure", "Allow plain HTTP and unknown certificates (type docker).", truth, func(d *decoder, f *From, v *node) { f.Insecure = d.truth(v, "insecure") }},
	{"path", "A Dockerfile, or the directory of one, relative to this file (type dockerfile). Its directory is the build context.", text, func(d *decoder, f *From, v *node) {
		f.Path, _ = d.text(v, "path")
	}},
	{"target", "Name of the Dockerfile's stage. Default: the last one (type dockerfile).", text, func(d *decoder, f *From, v *node) { f.Target, _ = d.text(v, "target") }},
	{"build_args", "Values of the Dockerfile's ARGs (type dockerfile).", mapOfTexts, func(d *decoder, f *From, v *node) { f.BuildArgs = d.kvs(v, "build_args") }},
}

var importFields = []field[Import]{
	{"path", "A local path, an http or https URL, or stacker://STAGE/PATH. A slash at the end means the contents of a directory.", nonEmpty, func(d *decoder, i *Import, v *node) {
		i.Path, _ = d.text(v, "path")
	}},
	{"hash", "SHA-256 that the file must have, in hex.", matching("^([0-9A-Fa-f]{64})?$"), func(d *decoder, i *Import, v *node) { i.Hash = d.hash(v) }},
	{"dest", "Absolute path in the image. Without it, only run sees the file.", matching("^(/.*)?$"), func(d *decoder, i *Import, v *node) {
		if !v.null() {
			i.Dest, _ = d.imagePath(v, "'dest' of an import")
		}
	}},
	// 0644 is 644 for programs that read YAML 1.2.
	{"mode", "Mode of the files, in octal such as 0644. Default: as in the source.", number(7777), func(d *decoder, i *Import, v *node) { i.Mode = d.mode(v) }},
	{"uid", "User id of the files. Default: 0.", number(1<<31 - 1), func(d *decoder, i *Import, v *node) { i.UID = d.id(v, "uid") }},
	{"gid", "Group id of the files. Default: 0.", number(1<<31 - 1), func(d *decoder, i *Import, v *node) { i.GID = d.id(v, "gid") }},
}

var overlayDirFields = []field[OverlayDir]{
	{"source", "A local directory, relative to the build file.", nonEmpty, func(d *decoder, o *OverlayDir, v *node) { o.Source, _ = d.path(v, "overlay_dirs") }},
	{"dest", "Absolute path in the image. Default: /.", matching("^(/.*)?$"), func(d *decoder, o *OverlayDir, v *node) {
		if !v.null() && (v.kind != textNode || v.text != "") {
			o.Dest, _ = d.imagePath(v, "'dest' of overlay_dirs")
		}
	}},
}

var bindFields = []field[Bind]{
	{"source", "A path of this machine, relative to the build file.", nonEmpty, func(d *decoder, b *Bind, v *node) { b.Source, _ = d.path(v, "binds") }},
	{"dest", "Path in the build environment. Default: source.", text, func(d *decoder, b *Bind, v *node) { b.Dest, _ = d.text(v, "dest") }},
}

var bomFields = []field[Bom]{
	{"generate", "Make the bill of materials.", truth, func(d *decoder, b *Bom, v *node) { b.Generate = d.truth(v, "generate") }},
	{"namespace", "URL that identifiers of documents begin with.", text, func(d *decoder, b *Bom, v *node) { b.Namespace = d.namespace(v) }},
	{"packages", "What files in the image belong to, beside packages of a distribution.", listOf(define("bom_package")), func(d *decoder, b *Bom, v *node) {
		b.Packages = d.bomPackages(v)
	}},
}

var bomPackageFields = []field[BomPackage]{
	{"name", "Name of the package.", nonEmpty, func(d *decoder, p *BomPackage, v *node) { p.Name, _ = d.text(v, "name") }},
	{"version", "Version of the package.", text, func(d *decoder, p *BomPackage, v *node) { p.Version, _ = d.text(v, "version") }},
	{"license", "Its licence, as an SPDX expression.", text, func(d *decoder, p *BomPackage, v *node) { p.License, _ = d.text(v, "license") }},
	{"paths", "Absolute paths in the image that belong to it.", listOf(absolutePath), func(d *decoder, p *BomPackage, v *node) { p.Paths = d.bomPaths(v) }},
}
