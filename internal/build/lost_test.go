// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"fmt"
	"testing"
)

func TestLost(t *testing.T) {
	var l Lost
	if l.String() != "" {
		t.Errorf("nothing lost reads %q", l)
	}
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Mode: 0o4755}, {Typeflag: tar.TypeDir, Mode: 0o2755, Gid: 5}, {Typeflag: tar.TypeSymlink, Mode: 0o7777, Uid: 5},
		{Typeflag: tar.TypeLink, Uid: 5, Mode: 0o4755}, {Typeflag: tar.TypeChar, Uid: 5}, {Typeflag: tar.TypeBlock},
	} {
		l.note(&h)
	}
	if want := "owners of 2 files, set-user-id and set-group-id bits of 2 files, devices (2)"; l.String() != want {
		t.Errorf("got  %s\nwant %s", l, want)
	}
	for i := range 100 {
		l.attribute(fmt.Sprint("x", i))
	}
	if len(l.Attributes) != maxLostNames+1 || l.Attributes["others"] != 100-maxLostNames {
		t.Errorf("attributes are %v, want %d and others", l.Attributes, maxLostNames)
	}
}
