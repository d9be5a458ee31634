// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Command service answers lines over TCP: "version" and "health".
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
)

var version = "unknown" // set by the linker

// serve answers the questions of one connection, a line each.
func serve(c io.ReadWriter) {
	for s := bufio.NewScanner(c); s.Scan(); {
		switch s.Text() {
		case "version":
			fmt.Fprintf(c, "service %s\n", version)
		case "health":
			fmt.Fprintln(c, "ok")
		default:
			fmt.Fprintln(c, "unknown question")
		}
	}
}

func main() {
	show := flag.Bool("version", false, "print the version")
	flag.Parse()
	if *show {
		fmt.Println("service", version)
		return
	}
	l, err := net.Listen("tcp", os.Getenv("SERVICE_ADDRESS"))
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}
