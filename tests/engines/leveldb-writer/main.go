// Writes into a LevelDB without an end, opens one and reads it whole.
//
//	write FOLDER   counts up: each number is put under its place in a window of keys, one after the other, with
//	               small tables; it ends when it is killed
//	check FOLDER   opens the folder and prints how many numbers were put; fails where one is missing that was
//	               put before another one that is there
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

const window = 20_000

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(verb, folder string) error {
	options := &opt.Options{WriteBuffer: 64 << 10, CompactionTableSize: 64 << 10, Strict: opt.StrictAll, ErrorIfMissing: verb != "write"}
	db, err := leveldb.OpenFile(folder, options)
	if err != nil {
		return err
	}
	if verb == "write" {
		return write(func(key, value []byte) error { return db.Put(key, value, nil) })
	}
	defer db.Close()
	all := db.NewIterator(nil, nil)
	defer all.Release()
	numbers := map[uint64]uint64{}
	for all.Next() {
		numbers[binary.BigEndian.Uint64(all.Key())] = binary.BigEndian.Uint64(all.Value())
	}
	if err := all.Error(); err != nil {
		return err
	}
	return judge(numbers)
}

func write(put func(key, value []byte) error) error {
	value := make([]byte, 120)
	for i := uint64(0); ; i++ {
		binary.BigEndian.PutUint64(value, i)
		// Not to be packed to nothing.
		binary.BigEndian.PutUint64(value[40:], i*0x9e3779b97f4a7c15)
		binary.BigEndian.PutUint64(value[80:], i*0xbf58476d1ce4e5b9)
		if err := put(binary.BigEndian.AppendUint64(nil, i%window), value); err != nil {
			return err
		}
		if i%100 == 99 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// The number that was put last under each key, of which every one before the latest must be there.
func judge(numbers map[uint64]uint64) error {
	count := uint64(0)
	for _, number := range numbers {
		count = max(count, number+1)
	}
	for back := uint64(1); back <= min(count, window); back++ {
		number := count - back
		if there, ok := numbers[number%window]; !ok || there != number {
			return fmt.Errorf("%d numbers were put, and of them %d is not there", count, number)
		}
	}
	fmt.Println(count)
	return nil
}
