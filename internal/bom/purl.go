// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package bom

import (
	"strings"
)

// purl gives the package URL (github.com/package-url/purl-spec) of a package.
func purl(p Package, os OS) string {
	namespace, name, version := "", p.Name, p.Version
	qualifiers := map[string]string{}
	switch p.Kind {
	case Deb, Apk, RPM:
		namespace = distribution(p.Kind, os)
		qualifiers["arch"] = p.Arch
		qualifiers["upstream"] = p.Source
		if os.ID != "" {
			qualifiers["distro"] = strings.Trim(os.ID+"-"+os.Version, "-")
		}
		if epoch, rest, ok := strings.Cut(version, ":"); ok && p.Kind == RPM {
			qualifiers["epoch"], version = epoch, rest
		}
		if p.Kind != RPM {
			name = strings.ToLower(name)
		}
	case Go:
		namespace, name = splitLast(strings.ToLower(name), "/")
	case NPM, Composer:
		namespace, name = splitLast(strings.ToLower(name), "/")
	case Python:
		name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	case Maven:
		namespace, name = splitLast(name, ":")
	case Cargo, Gem, Generic:
	}
	var b strings.Builder
	b.WriteString("pkg:" + string(p.Kind) + "/")
	for elem := range strings.SplitSeq(namespace, "/") {
		if elem != "" {
			b.WriteString(escape(elem) + "/")
		}
	}
	b.WriteString(escape(name))
	if version != "" {
		b.WriteString("@" + escape(version))
	}
	sep := "?"
	for _, k := range []string{"arch", "distro", "epoch", "upstream"} { // sorted
		if v := qualifiers[k]; v != "" {
			b.WriteString(sep + k + "=" + escape(v))
			sep = "&"
		}
	}
	return b.String()
}

// distribution is the namespace of packages of an operating system.
func distribution(k Kind, os OS) string {
	switch {
	case os.ID != "":
		return strings.ToLower(os.ID)
	case k == Deb:
		return "debian"
	case k == Apk:
		return "alpine"
	}
	return ""
}

func splitLast(s, sep string) (before, after string) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+1:]
	}
	return "", s
}

// escape percent-encodes what a package URL does not take as it is.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(".-_~:", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
	return b.String()
}
