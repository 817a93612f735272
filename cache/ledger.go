package cache

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
)

// grain is the step in which landed bytes are recorded.
const grain = 256 << 10

// A ledger records which grains of a fill have landed, so that the fill can go
// on after a restart. The file named state says what was written, which holds
// as long as the machine has not been booted since; the file named synced says
// what had reached the disk. Both hold a header and a bitmap of grains. A record is a
// hint: the digest of the whole decides what is kept.
//
// Its fields are guarded by the fill's mu; save and writeSynced do I/O and are called without it.
type ledger struct {
	dir  string
	boot [16]byte // identity of this boot, zero if unknown
	file *os.File // state
	size int64    // -1: not known, nothing is recorded
	bits []byte
	head atomic.Bool // the header on disk is this size's
}

// mark is a piece of the bitmap to be written.
type mark struct {
	off  int64
	bits []byte
}

var ledgerMagic = [8]byte{'e', 'p', 'f', 'i', 'l', 'l', '1', '\n'}

const ledgerHeader = 8 + 8 + 16

// openLedger reads what an earlier fill in dir has recorded, if it can be trusted.
func openLedger(dir string, boot [16]byte) (*ledger, error) {
	file, err := os.OpenFile(filepath.Join(dir, "state"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{dir: dir, boot: boot, file: file, size: -1}
	raw, err := io.ReadAll(io.LimitReader(file, 1<<24))
	if err != nil {
		raw = nil
	}
	if !l.load(raw, true) {
		_ = file.Truncate(0) // what it says is not to be taken for what this boot has written
		synced, err := os.ReadFile(filepath.Join(dir, "synced"))
		if err != nil || !l.load(synced, false) {
			l.size, l.bits = -1, nil
		}
	}
	return l, nil
}

func (l *ledger) load(raw []byte, sameBoot bool) bool {
	if len(raw) < ledgerHeader || [8]byte(raw[:8]) != ledgerMagic {
		return false
	}
	size := int64(binary.BigEndian.Uint64(raw[8:]))
	if sameBoot && ([16]byte(raw[16:32]) != l.boot || l.boot == [16]byte{}) {
		return false
	}
	bits := raw[ledgerHeader:]
	if size < 0 || int64(len(bits)) != bitmapLen(size) {
		return false
	}
	l.size, l.bits = size, bytes.Clone(bits)
	return true
}

func bitmapLen(size int64) int64 { return (size/grain + 1 + 7) / 8 }

// init fixes the size, once it is confirmed.
func (l *ledger) init(size int64) {
	l.head.Store(false)
	l.size, l.bits = size, make([]byte, bitmapLen(size))
}

// clear forgets the size and all that has landed.
func (l *ledger) clear() { l.size, l.bits = -1, nil }

// spans returns what has landed by the record.
func (l *ledger) spans() spans {
	var s spans
	for g := int64(0); g*grain < l.size; g++ {
		if l.bits[g/8]&(1<<(g%8)) != 0 {
			s.add(Span{g * grain, min((g+1)*grain, l.size)})
		}
	}
	return s
}

// mark notes the grains that s has completed and returns what save has to write for them.
func (l *ledger) mark(s Span, landed spans) mark {
	if l.size < 0 {
		return mark{}
	}
	first, last := int64(-1), int64(-1)
	for g := s.Off / grain; g*grain < min(s.End, l.size); g++ {
		if l.bits[g/8]&(1<<(g%8)) != 0 || !landed.has(Span{g * grain, min((g+1)*grain, l.size)}) {
			continue
		}
		l.bits[g/8] |= 1 << (g % 8)
		if first < 0 {
			first = g / 8
		}
		last = g / 8
	}
	if first < 0 {
		return mark{}
	}
	return mark{off: first, bits: bytes.Clone(l.bits[first : last+1])}
}

func (l *ledger) header() []byte {
	h := make([]byte, ledgerHeader)
	copy(h, ledgerMagic[:])
	binary.BigEndian.PutUint64(h[8:], uint64(l.size))
	copy(h[16:], l.boot[:])
	return h
}

// start writes the header of an empty record. A mark that is saved meanwhile may be lost, and a record
// that can't be written is; that costs a refetch after a restart, so errors are not passed on.
func (l *ledger) start() {
	if err := l.file.Truncate(0); err == nil {
		_, _ = l.file.WriteAt(l.header(), 0)
		_ = l.file.Truncate(ledgerHeader + bitmapLen(l.size))
	}
}

// save writes a mark, and the header before the first one.
func (l *ledger) save(m mark) {
	if len(m.bits) > 0 {
		if l.head.CompareAndSwap(false, true) {
			l.start()
		}
		_, _ = l.file.WriteAt(m.bits, ledgerHeader+m.off)
	}
}

// wipe makes the record on disk say that nothing has landed.
func (l *ledger) wipe() error {
	if err := os.Remove(filepath.Join(l.dir, "synced")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return l.file.Truncate(0)
}

// writeSynced records what has reached the disk.
func (l *ledger) writeSynced() error {
	return writeFile(filepath.Join(l.dir, "synced"), append(l.header(), l.bits...))
}
