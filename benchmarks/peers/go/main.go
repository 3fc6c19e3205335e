// A store of gorilla/sessions: server NAME URL, of which NAME is cookie or redis.
// What the routes do is said in benchmarks/peers/__init__.py.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/boj/redistore"
	"github.com/gorilla/sessions"
)

const (
	// As many as the load has: it would open one more for each request above that.
	connections = 32

	authenticationKey = "a key that has thirty-two bytes."
	encryptionKey     = "one more key of thirty-two bytes"
)

var writes int64

func open(name, address string) (sessions.Store, error) {
	keys := [][]byte{[]byte(authenticationKey), []byte(encryptionKey)}
	if name == "cookie" {
		return sessions.NewCookieStore(keys...), nil
	}
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	password, _ := parsed.User.Password()
	store, err := redistore.NewRediStore(connections, "tcp", parsed.Host, password, keys[0])
	if err != nil {
		return nil, err
	}
	// By default it takes 4096 bytes at most.
	store.SetMaxLength(16384)
	return store, nil
}

type valueMap = map[interface{}]interface{}

// A route returns its answer, and whether it has changed the values.
type route func(values valueMap, request *http.Request) (string, bool)

func filling(length int) route {
	return func(values valueMap, _ *http.Request) (string, bool) {
		for n := 0; n < 10; n++ {
			values[fmt.Sprintf("key%d", n)] = strings.Repeat("v", length)
		}
		return "hello", true
	}
}

func read(values valueMap, _ *http.Request) (string, bool) {
	return values["key5"].(string), false
}

func write(values valueMap, _ *http.Request) (string, bool) {
	values["count"] = 1_000_000 + int(atomic.AddInt64(&writes, 1))
	return "hello", true
}

func counter(values valueMap, _ *http.Request) (string, bool) {
	n, _ := values["n"].(int)
	time.Sleep(5 * time.Millisecond)
	values["n"] = n + 1
	return "hello", true
}

func keys(values valueMap, request *http.Request) (string, bool) {
	value := values["key5"].(string)
	time.Sleep(5 * time.Millisecond)
	values[request.URL.Query().Get("key")] = 1
	return value, true
}

func all(values valueMap, _ *http.Request) (string, bool) {
	named := map[string]interface{}{}
	for key, value := range values {
		named[key.(string)] = value
	}
	answer, err := json.Marshal(named)
	if err != nil {
		panic(err)
	}
	return string(answer), false
}

func hello(response http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(response, "hello")
}

// within returns a handler that gives a route the values of its session.
func within(store sessions.Store, route route) http.HandlerFunc {
	return func(response http.ResponseWriter, request *http.Request) {
		session, err := store.Get(request, "peer")
		if err != nil {
			http.Error(response, err.Error(), http.StatusInternalServerError)
			return
		}
		answer, changed := route(session.Values, request)
		if changed {
			if err := session.Save(request, response); err != nil {
				http.Error(response, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		fmt.Fprint(response, answer)
	}
}

func serve(handler http.HandlerFunc) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(http.Serve(listener, handler)) }()
	return fmt.Sprintf("http://%s/", listener.Addr())
}

func main() {
	name, address := os.Args[1], os.Args[2]
	store, err := open(name, address)
	if err != nil {
		log.Fatal(err)
	}
	routes := map[string]route{
		"counter": counter,
		"fill":    filling(15),
		"keys":    keys,
		"read":    read,
		"values":  all,
		"write":   write,
	}
	if name != "cookie" {
		// It refuses a cookie that is too large for a browser.
		routes["fill_4k"] = filling(400)
		routes["write_4k"] = write
	}
	// There is no middleware: a handler that does not ask for its session has none.
	urls := map[string]string{"bare": serve(hello), "untouched": serve(hello)}
	for name, route := range routes {
		urls[name] = serve(within(store, route))
	}
	ready, err := json.Marshal(map[string]interface{}{"urls": urls})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(ready))
	select {}
}
