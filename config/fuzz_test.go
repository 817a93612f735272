package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot/entrepot/config"
)

// FuzzParse: nothing makes Parse panic, and what it takes is read back from
// Show as the same.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(config.Example())
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4<<10 { // the parser is not linear
			return
		}
		c, err := config.Parse("fuzz", data, env)
		if err != nil {
			if c != nil || err.Error() == "" {
				t.Fatalf("Parse = %v, %q", c, err)
			}
			return
		}
		shown, err := c.Show()
		if err != nil {
			t.Fatal(err)
		}
		again, err := config.Parse("shown", shown, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, shown)
		}
		if diff := cmp.Diff(c, again, hidden); diff != "" {
			t.Fatalf("read back (-want +got):\n%s\n%s", diff, shown)
		}
		twice, err := again.Show()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(shown), string(twice)); diff != "" {
			t.Fatalf("shown twice (-first +second):\n%s", diff)
		}
	})
}

// FuzzText: whatever text a value holds, Show writes it so that it is read back.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", " ", "a: b", "# a", "- a", "null", "~", "1", "0x1", "true", "${A}", "$$", "'", `"`, "\\", "a\nb", "\n", "a\n", " a", "a ",
		"\t", "\x00", "\x7f", "\u0085", "\u2028", "\ufeff", "é", "|", ">", "&a", "*a", "!a", "%a", "@a", "{", "[", "?", ":", "a #b", "---", "a\r\nb", "\r", "<<", "2024-01-01", ".inf"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lookup := func(string) (string, bool) { return text, true }
		c, err := config.Parse("fuzz", []byte("upstreams: [{name: a.example, credentials: {type: basic, username: '${A}', passwordFile: '/${A}'}}]"), lookup)
		if err != nil {
			return // no user name, or a zero byte in the path
		}
		shown, err := c.Show()
		if err != nil {
			t.Fatal(err)
		}
		again, err := config.Parse("shown", shown, nil)
		if err != nil {
			t.Fatalf("%q: %v\n%s", text, err, shown)
		}
		if got := again.Upstreams[0].Credentials; got.Username != text || string(got.PasswordFile) != "/"+text {
			t.Fatalf("%q is read back as %q, %q", text, got.Username, got.PasswordFile)
		}
	})
}
