// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"regexp"
	"strings"
)

// plainer says in other words what the parser and the converter say in those of Go,
// and what to do. The first that matches counts. In both texts $1 is a group of the
// pattern; an empty text leaves the message as it is. With a line it is only for
// messages about an instruction that matches.
var plainer = []struct {
	message    string // regular expression
	line       string // likewise
	text, hint string
}{
	{`^no build stage in current context$`, ``, `there is no FROM before this instruction`, `begin with FROM IMAGE or FROM scratch`},
	{`^invalid mount target "/"$`, ``, `the mount has no target`, `say where it is to be seen: target=/DIRECTORY`},
	{`^invalid secret mount\. one of source, target required$`, ``, `the secret has no name`, `write --mount=type=secret,id=NAME`},
	{`^unsupported sharing value (".*")$`, ``, `sharing=$1 is none`, `it is shared, private or locked`},
	{`^(?:invalid value|unsupported) .* for mode$`, ``, ``, `a mode is written in octal, as 0440`},
	{`^invalid value for size: (.*)$`, ``, ``, `a size is written as 64m`},
	{`^unsupported mount type (".*")$`, ``, ``, `a mount is of type bind, cache, tmpfs, secret or ssh`},
	{`^unexpected key '(.*)' in `, `type=ssh`, ``, `keys of type=ssh are id, target, required, mode, uid and gid`},
	{`^invalid network mode (".*")$`, ``, `there is no network $1`, `it is default, none or host`},
	{`^security (".*") is not valid$`, ``, ``, `it is sandbox or insecure`},
	{`^invalid chmod parameter: '(.*)'`, ``, `$1 is no mode`, `write it in octal, as 755, or in words, as u=rwX,go=rX`},
	{`^invalid syntax$`, `--chmod=`, `the mode cannot be read`, `write it in octal, as 755, or in words, as u=rwX,go=rX`},
	{`^variable expansion is not supported for --from\b`, ``, `--from takes no variables`, `write FROM $$NAME AS STAGE, with ARG NAME before the first FROM, and --from=STAGE`},
	{`^invalid stage index (\d+)$`, ``, `there is no stage $1 before this one`, `stages count from 0`},
	{`^source can't be a URL for COPY$`, ``, ``, `ADD downloads`},
	{`requires at least two arguments, but only one was provided`, ``, ``, `the last word says to where: COPY a.txt /`},
	{`^unknown flag: --from$`, `(?i)^ADD\s`, ``, `COPY has --from`},
	{`^(?:failed to process .*: )?unsupported modifier \((\W?)\) in substitution$`, ``, `there is no } behind $${`, `write $${NAME}; a \ before $$ makes it a character`},
	{`^failed to process (".*"): unsupported modifier \((.*)\) in substitution$`, ``, `$1: $2 is no modifier`, `they are :- - :+ + :? ? # ## % %% / and //`},
	{`^Syntax error - can't find = in (".*")\. Must be of the form: name=value$`, ``, `$1 has no =`, `write NAME=VALUE, with quotes around a value that has spaces`},
	{`^(ENV|LABEL) must have two arguments$`, ``, `$1 without a value`, `write $1 NAME=VALUE`},
	{`^(ENV|ARG) names can not be blank$`, ``, `$1 without a name`, `write $1 NAME=VALUE`},
	{`^invalid containerPort: (.*)$`, ``, `$1 is no port`, `write a number up to 65535, with /tcp or /udp`},
	{`^invalid port: .*: invalid proto: (.*)$`, ``, `$1 is no protocol`, `write tcp, udp or sctp`},
	{`^invalid signal: (.*)$`, ``, ``, `write a name, as SIGTERM, or a number`},
	{`^VOLUME specified can not be an empty string$`, ``, `VOLUME without a directory`, `write VOLUME /DIRECTORY`},
	{`^SHELL requires the arguments to be in JSON form$`, ``, ``, `write SHELL ["/bin/sh", "-c"]`},
	{`^SHELL requires at least one argument$`, ``, ``, `write SHELL ["/bin/sh", "-c"]`},
	{`^Interval ("[a-z-]+") cannot be less than 1ms$`, ``, `$1 is less than a millisecond`, `write it with a unit, as 30s`},
	{`^time: (?:missing unit in|invalid|unknown unit .* in) duration (".*")$`, ``, `$1 is no duration`, `write it with a unit, as 30s or 1m30s`},
	{`^strconv\.ParseInt: parsing (".*"): invalid syntax$`, ``, `$1 is no number`, ``},
	{`^--retries cannot be negative`, ``, ``, `leave it out for the default, 3`},
	{`^empty platform value from expression (.*)$`, ``, `$1 is empty`, `give it a value: ARG NAME=linux/amd64 before FROM, or --build-arg`},
	{`^base name \((.*)\) should not be blank$`, ``, `$1 is empty`, `give it a value: ARG NAME=IMAGE before FROM, or --build-arg`},
	{`^FROM requires either one or three arguments$`, ``, ``, `write FROM IMAGE or FROM IMAGE AS NAME`},
	{`^failed to parse platform .*`, ``, ``, `write OS/ARCHITECTURE, as linux/arm64`},
	{`must be lowercase$`, ``, ``, `names of images have no capitals`},
	{`^circular dependency detected on stage: (.*)$`, ``, `stage $1 needs itself`, `--from names a stage before this one`},
	{`^unterminated heredoc$`, ``, `the here-document has no end`, `end it with a line that has only its word`},
	{`^unknown instruction: `, ``, ``, `a line that goes on ends with \`},
	{`^checksum requires HTTP\(S\) or Git sources$`, ``, `a file of the build context has no --checksum`, `it is for URLs`},
	{`^invalid checksum digest (?:format|length)$`, ``, ``, `write sha256: and 64 hexadecimal digits`},
	{`^unexpected query (".*")$`, ``, `$1 is no part of a git URL's query`, `they are ref, tag, branch, commit, checksum, subdir, keep-git-dir and submodules`},
	{`^failed to parse check options?.*: strconv\.ParseBool: parsing (".*"): invalid syntax$`, ``, `error=$1 is neither true nor false`, ``},
	{`^invalid escape token '(.*)' does not match `, ``, `$1 cannot be the escape character`, "it is \\ or `"},
	{`^invalid SOURCE_DATE_EPOCH: `, ``, ``, `it is a number of seconds, "context", or the name of a stage or context`},
	{`^Chaining ONBUILD via `, ``, `ONBUILD of ONBUILD is not allowed`, ``},
	{`^(FROM|MAINTAINER) isn't allowed as an ONBUILD trigger$`, ``, ``, `write an instruction that belongs to a stage`},
	{`^missing a value on flag: (--[a-z-]+)$`, ``, `$1 has no value`, `write $1=VALUE`},
	{`^expecting boolean value for flag (--[a-z-]+), not: (.*)$`, ``, `$1=$2 is neither true nor false`, ``},
	{`^VOLUME requires at least one argument$`, ``, ``, `write VOLUME /DIRECTORY`},
	{`^WORKDIR requires exactly one argument$`, ``, ``, `write WORKDIR /DIRECTORY`},
	{`^USER requires exactly one argument$`, ``, ``, `write USER NAME or USER NAME:GROUP`},
	{`^MAINTAINER requires exactly one argument$`, ``, ``, `write LABEL org.opencontainers.image.authors=NAME`},
	{`^LABEL requires at least one argument$`, ``, ``, `write LABEL NAME=VALUE`},
	{`^ARG requires at least one argument$`, ``, ``, `write ARG NAME or ARG NAME=VALUE`},
	{`^unexpected key '(.*)' for mount type '(.*)'$`, ``, `mounts of type $2 have no $1`, ``},
	{`^invalid cache sharing set for (.*) mount$`, ``, `mounts of type $1 have no sharing`, `type=cache has it`},
	{`^(--chown=.*): user and group names can't be resolved when used with --link, use numeric uid\[:gid\] instead$`, ``,
		`$1: names are not known with --link, which does not look at what is below`, `write numbers, or leave --link out`},
	{`^failed to process (".*"): unexpected end of statement while looking for matching (double|single)-quote$`, ``, `$1: the $2 quote has no end`, ``},
}

// found begins errors of the parser, which says the line once more.
var found = regexp.MustCompile(`^dockerfile parse error on line \d+: `)

// clear makes a message of the converter plain.
func clear(text, line string) (plain, hint string) {
	text = found.ReplaceAllString(text, "")
	text, near, guessed := strings.Cut(text, " (did you mean ")
	if guessed {
		hint = "did you mean " + strings.TrimSuffix(near, ")")
	}
	for _, p := range plainer {
		re := regexp.MustCompile(p.message)
		m := re.FindStringSubmatchIndex(text)
		if m == nil || !regexp.MustCompile(p.line).MatchString(line) {
			continue
		}
		if !guessed {
			hint = string(re.ExpandString(nil, p.hint, text, m))
		}
		if p.text != "" {
			text = string(re.ExpandString(nil, p.text, text, m))
		}
		break
	}
	return text, hint
}
