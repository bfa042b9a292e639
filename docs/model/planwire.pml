/* One topic from commit to tab: two gateways, a tab that moves between them, a bus that loses and reorders, a store that
 * may come back older.
 *
 *   spin -a planwire.pml && cc -O2 -DCOLLAPSE -o pan pan.c && ./pan -a
 *
 * Two claims. "Never back": the tab goes to no lower version, `reset` aside, and `reset` is said only where the store did
 * lose something (the assertions). "Always converges": once commits and faults end, the tab shows what the store holds
 * (the formula). -DNO_SWEEP and its like take a rule away, and a claim must then fail: tests/conformance/test_model.py.
 *
 * Not modelled: time, bytes, patches, private parts. A sweep is "at some time", the hold before a `reset` is "until no
 * gateway in touch with the store holds more". Commits are numbered in the order of time; ver[] is the version of each. */
#ifndef COMMITS
#define COMMITS 2
#endif
#ifndef CUTS
#define CUTS 1                       /* bus connections lost, gateways killed */
#endif
#ifndef MOVES
#define MOVES 1                      /* times the tab leaves its gateway for another */
#endif
#ifdef EXACT                         /* a bus that loses nothing, a store that keeps all, and no sweep to help */
#define NO_SWEEP
#define LOSSES 0
#endif
#ifndef LOSSES
#define LOSSES 1                     /* times the store comes back older, or empty */
#endif
#define NONE 9

byte ver[COMMITS + 1];               /* commit -> version; ver[0] is 0: nothing was ever committed */
byte store, commits, losses, cuts, moves;
byte known[2];                       /* newest commit each gateway knows */
byte read[2] = NONE;                 /* what a read of the store under way will answer */
byte fly[2];                         /* announcements under way to each gateway: one bit a commit */
bool sub[2], ready[2], want[2];      /* subscribed; read since; to be read again */
bool settled[2], asked;              /* a read begun after the tab's doubt was answered; the tab's doubt was heard */
byte tab, at = NONE;                 /* what the tab shows; the gateway it is connected to */

#define V(x) ver[x]
#define newer(x, y) (V(x) > V(y))
#define holds_more(g) (ready[1 - g] && newer(known[1 - g], known[g]))

inline announce() {
    if :: sub[0] -> fly[0] = fly[0] | (1 << store) :: else fi;
    if :: sub[1] -> fly[1] = fly[1] | (1 << store) :: else fi
}

active proctype Store() {
    byte g;
    do
    :: atomic { commits < COMMITS -> commits++;
#ifdef GATEWAY_VERSIONS              /* whoever publishes counts for himself */
        if :: g = 0 :: g = 1 fi; ver[commits] = V(known[g]) + 1;
#else
        ver[commits] = commits;      /* of the clock: above all before it, lost ones too */
#endif
        store = commits; announce() }
    :: atomic { losses < LOSSES && store > 0 -> losses++; select(g : 0 .. store - 1); store = g }
    :: commits == COMMITS && losses == LOSSES -> break
    od
}

inline lose_bus(g) { sub[g] = false; ready[g] = false; want[g] = false; settled[g] = false; read[g] = NONE; fly[g] = 0 }

proctype Gateway(byte g) {
    byte c;
end: do
    :: atomic { fly[g] > 0 ->                             /* any of them: the bus keeps no order */
        c = 1; do :: fly[g] & (1 << c) -> break :: fly[g] >= (2 << c) -> c++ od;
        fly[g] = fly[g] & ~(1 << c);
        if
#ifndef EXACT
        :: skip                                           /* lost */
#endif
#ifdef ANY_ORDER
        :: known[g] = c
#else
        :: if :: newer(c, known[g]) -> known[g] = c :: else fi
#endif
        fi; c = 0 }
#ifdef READ_FIRST
    :: atomic { !sub[g] && !want[g] && read[g] == NONE && !ready[g] -> want[g] = true }
    :: atomic { !sub[g] && ready[g] -> sub[g] = true }
#else
    :: atomic { !sub[g] -> sub[g] = true; want[g] = true }
#endif
    :: atomic { want[g] && read[g] == NONE -> want[g] = false; read[g] = store; }
    :: atomic { read[g] != NONE ->                        /* the answer: what the store held then */
        if
        :: newer(read[g], known[g]) -> known[g] = read[g]; ready[g] = true
        :: newer(known[g], read[g]) ->
#ifndef NO_RESTORE
            if :: newer(known[g], store) -> store = known[g] :: else fi; want[g] = true;
#endif
            skip
        :: else -> ready[g] = true
        fi;
        settled[g] = !want[g]; read[g] = NONE }
#ifndef NO_SWEEP
    :: atomic { ready[g] && !want[g] && read[g] == NONE && V(store) != V(known[g]) -> want[g] = true }
#endif
    :: atomic { cuts < CUTS -> cuts++; lose_bus(g) }
    :: atomic { cuts < CUTS -> cuts++; lose_bus(g); known[g] = 0;        /* killed: the tab is cut off */
        if :: at == g -> at = NONE :: else fi }
    od
}

#define ahead (newer(tab, known[at]))

active proctype Tab() {
end: do
    :: atomic { at == NONE -> if :: at = 0 :: at = 1 fi; asked = false }
    :: atomic { at != NONE && moves < MOVES -> moves++; at = NONE }
#ifdef ANY_ORDER                     /* whatever comes last is shown */
    :: atomic { at != NONE && ready[at] && tab != known[at] -> assert(!ahead); tab = known[at] }
#else
    :: atomic { at != NONE && ready[at] && tab != known[at] && !ahead -> tab = known[at] }
#endif
#ifdef NO_REREAD
    :: atomic { at != NONE && ready[at] && ahead -> assert(losses > 0); tab = known[at] }
#else
    :: atomic { at != NONE && ready[at] && ahead && !asked ->           /* a doubt: read once more, from now on */
        asked = true; want[at] = true; settled[at] = false }
#ifndef NO_RESET
    :: atomic { at != NONE && ready[at] && ahead && asked && settled[at] && !holds_more(at) ->     /* the hold is over */
        assert(losses > 0); tab = known[at] }
#endif
#endif
    od
}

init { atomic { run Gateway(0); run Gateway(1) } }

ltl converges { <>[] (tab == store) }
